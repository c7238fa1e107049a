"""Plugins: a user's own file registers what the config that names it may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stitching.config.errors import UserError
from stitching.config.parts import PARTS
from stitching.config.yaml import Document
from stitching.nets.build import build_network
from stitching.nets.parts import BuildOptions, Format
from stitching.runs.identity import identity, identity_config
from stitching.runs.kinds import load_job, read_job

PART = '''
from typing import ClassVar

from torch import nn

from stitching.nets.parts import PARTS, ChannelsPart


@PARTS.register("{name}")
class Mine(ChannelsPart):
    """A 1x1 convolution."""

    works_on: ClassVar = "img"
    bias: bool = True

    def build(self, input_format, options):
        return nn.Conv2d(*self.channels(input_format), 1, bias=self.bias)
'''


def with_plugin(small_job: str, name: str, arguments: str = "{out_channels: 8}") -> str:
    adapter = "SimpleAdapter: {num_conv: 1, kernel_size: 1, out_channels: 8}"
    assert adapter in small_job
    return "plugins: [mine.py]\n" + small_job.replace(adapter, f"{name}: {arguments}")


def test_a_part_of_a_plugin_is_used_like_ours(write, small_job):
    write("mine.py", PART.replace("{name}", "PartOfPlugin"))
    job = load_job(write("config.yml", with_plugin(small_job, "PartOfPlugin")))
    network = build_network(job.network, Format("img", 1, (8, 8)), BuildOptions(num_classes=10))
    assert [type(piece.net).__name__ for piece in network.pieces][1] == "Conv2d"
    # What a run leaves as its config works from any folder, and is the same run.
    assert job.plugins == [str(write("mine.py", PART.replace("{name}", "PartOfPlugin")))]
    again = read_job(Document(Path("/elsewhere/config.yml"), job.to_yaml()))
    assert identity(again) == identity(job)


def test_mistakes_in_a_plugins_part_are_told_like_those_in_ours(write, small_job):
    write("mine.py", PART.replace("{name}", "StrictPart"))
    path = write("config.yml", with_plugin(small_job, "StrictPart", "{out_chanels: 8}"))
    with pytest.raises(UserError, match=r"config.yml:6.*\n.*") as caught:
        load_job(path)
    assert "did you mean 'out_channels'" in str(caught.value)
    path = write("config.yml", with_plugin(small_job, "StrictPrat"))
    with pytest.raises(UserError, match="did you mean 'StrictPart'"):
        load_job(path)


@pytest.mark.parametrize(
    ("code", "place", "words"),
    [
        ("raise ValueError('no luck')", "mine.py:1", "no luck"),
        ("import absent_module_of_nobody", "mine.py:1", "absent_module_of_nobody"),
        ("def f(:", "mine.py:1", "SyntaxError"),
        (PART.replace("{name}", "SimpleAdapter"), "mine.py:9", "'SimpleAdapter' is registered twice"),
    ],
)
def test_a_plugin_that_fails_is_one_message(write, small_job, code, place, words):
    write("mine.py", code)
    with pytest.raises(UserError) as caught:
        load_job(write("config.yml", "plugins: [mine.py]\n" + small_job))
    assert "config.yml:1: plugins.0: " in str(caught.value)
    assert place in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("[absent.py]", "there is no file"),
        ("mine.py", "expected a list"),
        ("['']", "at least 1"),
        ("[not a name]", "no Python code"),
        ("[absent_module_of_nobody]", "no Python module"),
    ],
)
def test_what_is_no_plugin(write, small_job, key, words):
    with pytest.raises(UserError, match=words) as caught:
        load_job(write("config.yml", f"plugins: {key}\n" + small_job))
    assert "config.yml:1" in str(caught.value)


def test_what_a_failing_plugin_registered_is_taken_back(write, small_job):
    path = write("config.yml", with_plugin(small_job, "HalfDone"))
    write("mine.py", PART.replace("{name}", "HalfDone") + "\nraise ValueError('too late')\n")
    with pytest.raises(UserError, match="too late"):
        load_job(path)
    assert "HalfDone" not in PARTS
    write("mine.py", PART.replace("{name}", "HalfDone"))
    load_job(path)


def test_one_plugin_in_two_configs_is_loaded_once_and_an_edit_is_an_error(write, small_job):
    text = PART.replace("{name}", "OnceLoaded")
    write("mine.py", text)
    write("copy/mine.py", text)
    path = write("config.yml", with_plugin(small_job, "OnceLoaded"))
    assert load_job(path).network.kind == "Assembly"
    load_job(write("copy/config.yml", with_plugin(small_job, "OnceLoaded")))
    write("mine.py", text + "# edited\n")
    with pytest.raises(UserError, match="has changed since this process imported it") as caught:
        load_job(path)
    assert "config.yml:1" in str(caught.value)


def test_a_plugins_code_is_part_of_the_identity(write, small_job):
    def job(**changes: Any):
        write(f"{changes['folder']}/mine.py", changes["code"])
        return load_job(write(f"{changes['folder']}/config.yml", "plugins: [mine.py]\n" + small_job))

    plain = load_job(write("config.yml", small_job))
    one, same, other = (
        job(folder=folder, code=code) for folder, code in (("a", "x = 1\n"), ("b", "x = 1\n"), ("c", "x = 2\n"))
    )
    assert identity(one) == identity(same)
    assert len({identity(plain), identity(one), identity(other)}) == 3
    empty = load_job(write("empty.yml", "plugins: []\n" + small_job))
    assert identity(empty) == identity(plain)
    assert "plugins" not in identity_config(plain)
