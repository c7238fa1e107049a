"""Metadata that no run wrote is refused with a reason where it is read, whatever is odd about it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from stitching.config.errors import UserError
from stitching.training.files import RunFolder, write_yaml
from stitching.training.run_metadata import metadata_of

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
ODD = {  # and words of the reason
    "- a\n- list": "a list of 2, not keys",
    "only words": "'only words', not keys",
    "3": "3, not keys",
    "a: [b": "no YAML",
    "a: \x00": "no YAML",
    "!!python/object/apply:os.system [ls]": "no YAML",
    "started: !!timestamp abc": "no YAML",
    "seed: 2001-99-99": "no YAML",
    f"seed: 1{'0' * 5000}": "no YAML",
    f"other: 1{'0' * 30}": "too large",
    "? [a]\n: b": "no YAML",
    "1: 2": "the key 1",
    "2001-01-01: b": "the key datetime",
    '"a\\eb": 1': "no plain text",
    BOMB: "unfolds to more than",
    "a: &a [*a]": "unfolds to",
    f"a: {'[' * 200}{']' * 200}": "deep",
    "[" * 100_000: "nested too deep",  # these crash the process in libyaml
    "- " * 100_000 + "x": "nested too deep",
    "\n".join(f"k{n}: {n}" for n in range(1000)): "1,000 keys",
    "name: 3": "name: Input should be a valid string, found 3",
    "name: [a]": "name: ",
    'name: "a\\nb"': "cannot be printed",
    'name: "\\e[2J"': "cannot be printed",
    f"name: {'x' * 100_000}": "name: ",
    "source: {a: b}": "source: ",
    "adapter: true": "adapter: ",
    "first_deleted_block: one": "first_deleted_block: ",
    "last_deleted_block: 1.5": "last_deleted_block: ",
    "last_deleted_block: -7": "last_deleted_block: ",
    "num_downsamples: many": "num_downsamples: ",
    "source_depth: .nan": "source_depth: ",
    "destination_depth: half": "destination_depth: ",
    "seed: .nan": "seed: ",
    "seed: true": "seed: ",
    "macs: abc": "macs: Input should be a valid integer, found 'abc'",
    "macs: -3": "macs: ",
    "parameters: 1.5e6": "parameters: ",
    "test_images: lots": "test_images: ",
    "total_steps: []": "total_steps: ",
    "first_step: x": "first_step: ",
    "steps: x": "steps: ",
    "epoch: x": "epoch: ",
    "seconds: -1": "seconds: ",
    "final: [0.5]": "final: ",
    "final: {a: b}": "final.a: ",
    "failure: {a: b}": "failure: ",
    "state: [done]": "state: ",
    "identity: 12": "identity: ",
    "also: {name: a}": "also: ",
    "also: [a]": "also.0: ",
    "also: [{seed: x}]": "also.0.seed: ",
    "config: [a]": "config: ",
    "versions: [a]": "versions: ",
    "validation: 0.1": "validation: ",
}


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
        "name": "train-a-gap-1,2 (größer)", "source": "timm/resnet18", "control": None, "first_deleted_block": 3,
        "last_deleted_block": 2, "source_depth": 1, "destination_depth": 0.25, "seed": -1, "state": "failed",
        "failure": "RuntimeError: two\nlines \x1b[31m", "macs": 10**12, "started": "2025-11-21T10:00:00+0000",
        "final": {"Overall/Test Accuracy": 0.5, "Overall/Test Loss": float("inf")}, "also": [{"name": "b", "more": 1}],
        "versions": {"torch": "2.9.0"}, "config": {"train_config": {"epochs": 3}}, "of a plugin": {"a": [1, None, True]},
        "twice": [pair, pair],  # an alias in YAML
    }  # fmt: skip
    write_yaml(folder.metadata, about)
    assert folder.read_metadata() == about
    assert folder.read_metadata(brief=True) == {k: v for k, v in about.items() if k not in ("config", "versions")}
    assert metadata_of("") == {}


def test_states_are_read_without_torch():
    code = "import sys; import stitching.training.run_metadata, stitching.sweeps.status; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
