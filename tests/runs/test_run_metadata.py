"""Metadata that no run wrote is refused with a reason where it is read, whatever is odd about it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from odd_metadata import ODD

from stitching.config.errors import UserError
from stitching.config.yaml import yaml_text
from stitching.runs.folder import RunFolder, write_yaml
from stitching.runs.metadata import UnreadableMetadata, metadata_of, simple_metadata_of


@pytest.mark.parametrize(("text", "words"), ODD.items(), ids=[repr(text[:30]) for text in ODD])
def test_what_no_run_wrote_is_refused_with_a_reason(tmp_path, text, words):
    folder = RunFolder(tmp_path)
    folder.metadata.write_text(text)
    with pytest.raises(UserError) as caught:
        folder.read_metadata()
    assert f"cannot read {folder.metadata}: " in str(caught.value)
    assert words in str(caught.value)
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 600


def test_what_is_no_text_is_refused(tmp_path):
    folder = RunFolder(tmp_path)
    for make, words in (
        (lambda path: path.write_bytes(b"name: \xff"), "not UTF-8"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00" * 10), "not UTF-8"),
        (os.mkfifo, "no regular file"),  # nobody writes to it: to open it would wait without end
        (lambda path: path.mkdir(), "no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
        (lambda path: path.write_bytes(b"#" * 9_000_000), "9,000,000 bytes"),
    ):
        make(folder.metadata)
        with pytest.raises(UserError, match=words):
            folder.read_metadata()
        folder.metadata.rmdir() if folder.metadata.is_dir() else folder.metadata.unlink()
    assert folder.read_metadata() is None


def test_what_runs_write_comes_back_and_so_do_keys_of_other_versions(tmp_path):
    folder = RunFolder(tmp_path)
    pair = ["timm/resnet18", 0.5]
    about = {
        "name": "train-a-gap-1,2 (größer)", "source": "timm/resnet18", "first_deleted_block": 3,
        "last_deleted_block": 2, "source_depth": 1, "destination_depth": 0.25, "seed": -1, "state": "failed",
        "failure": "RuntimeError: two\nlines \x1b[31m", "macs": 10**12, "started": "2025-11-21T10:00:00+0000",
        "final": {"Overall/Test Accuracy": 0.5, "Overall/Test Loss": float("inf")}, "also": [{"name": "b", "more": 1}],
        "versions": {"torch": "2.9.0"}, "config": {"train_config": {"epochs": 3}}, "of a plugin": {"a": [1, None, True]},
        "twice": [pair, pair],  # an alias in YAML
    }  # fmt: skip
    write_yaml(folder.metadata, about)
    assert folder.read_metadata() == about
    assert folder.read_metadata(brief=True) == {key: about[key] for key in ("state", "failure", "final")}
    shared = {"a": 0.5}
    aliases = {"first": shared, "state": "done", "final": shared, "failure": "some\n\nlines: of\nit"}
    write_yaml(folder.metadata, aliases)
    assert folder.read_metadata(brief=True) == {key: aliases[key] for key in ("state", "final", "failure")}
    assert metadata_of("") == metadata_of("seed:\nalso: null") == {}


def test_states_are_read_without_torch():
    code = "import sys; import stitching.runs.metadata, stitching.launch.status; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


WORDS = [
    "done", "a b", "a/b.c_d", "true", "No", "NULL", "y", "~", "", " a", "a ", "a: b", "a #b", "-", "-1", "1_0", "0x1f", "0b1", "017", "1e5",
    "1.5", "1:30", ".inf", "2026-11-21", "größer", "it's", 'a"b', "two\nlines", "a\n\nb: c", "[a]", "{a}", "*a", "&a", "!a", "|", ">",
    "%a", "@a", "`a", "0" * 64, "1e" * 32, "0b" + "1" * 62, "ab12" * 16, "12ab" * 16, "0123456789abcdef" * 4, "\x1b", "x" * 300,
]  # fmt: skip
NUMBERS = [0, -1, 7, 10**17, 2**62, 0.0, 0.5, -1.25, 1e-7, 1e22, 1.0, float("inf"), float("-inf"), True, False]


@pytest.mark.parametrize("value", [*WORDS, *NUMBERS])
def test_the_short_way_to_read_metadata_reads_what_yaml_reads(tmp_path, value):
    """Where it reads anything at all: the rest is left to YAML."""
    for data in (
        {"state": value, "identity": "x"},
        {"code": {"digest": "x", "more": value}, "state": "done"},
        {"state": "done", "code": {"digest": "x"}, "more": {str(value): 1}},
        {str(value): "x", "state": "done"},
    ):
        text = yaml_text(data)
        try:
            read: object = metadata_of(text)
        except UnreadableMetadata as error:
            read = str(error)
        try:
            simple: object = simple_metadata_of(text)
        except UnreadableMetadata as error:
            simple = str(error)
        assert simple is None or repr(simple) == repr(read)


def test_what_runs_write_is_read_the_short_way():
    text = yaml_text({
        "state": "done", "identity": "0123" * 16, "epoch": 10, "seconds": 1.5, "device": "NVIDIA H200",
        "digests": {"result.pkl": "12ab" * 16}, "code": {"digest": "528127acf239", "commit": "01234567ab" * 4, "modified": True}, "final": {"Overall/Test Loss": 2.0, "Overall/Test Accuracy": 0.97},
    })  # fmt: skip
    assert simple_metadata_of(text) == metadata_of(text)
    for odd in (
        "state: done\n  a: 1\n",
        "final:\nstate: done\n",
        "final:\n",
        "  a: 1\n",
        "a:  b\n",
        "final:\n  a:\n    b: 1\n",
    ):
        assert simple_metadata_of(odd) is None
