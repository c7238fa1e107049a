"""The limits that `make lint` holds are found to be broken where they are."""

from __future__ import annotations

from pathlib import Path

import layout_limits
import pytest


@pytest.fixture
def package(tmp_path: Path):
    """Write files of a package `stitching`, by their paths in it."""

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / "stitching" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def long_function(lines: int) -> str:
    return "def f():\n" + "    pass\n" * (lines - 1)


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({"nets/a": "#\n" * 401}, "stitching/nets/a.py: 401 lines; at most 400"),
        ({"nets/a": long_function(61)}, "stitching/nets/a.py:1: f has 61 lines; at most 60"),
        ({"training/a": long_function(51)}, "stitching/training/a.py:1: f has 51 lines; at most 50"),
        ({"nets/a": "", "data/a": ""}, "stitching/data/a.py and stitching/nets/a.py have one name"),
        ({"nets/a": "from stitching.data.b import _c"}, "stitching/nets/a.py:1: stitching.data.b._c is private to its room"),
        ({"nets/a": "from stitching.data import b\nb._c()"}, "stitching/nets/a.py:2: stitching.data.b._c is private to its room"),
    ],
)  # fmt: skip
def test_what_breaks_a_limit_is_told_with_its_place(package, files, line):
    assert layout_limits.problems(package(files)) == [line]


def test_what_keeps_to_the_limits(package):
    own = "from stitching.nets import b\nfrom stitching.nets.b import _c\nb._c\nself._d\n"
    root = package({"nets/a": own, "nets/b": "#\n" * 400, "nets/__init__": long_function(60), "data/__init__": ""})
    assert layout_limits.problems(root) == []


def test_circles_within_a_room(package, monkeypatch):
    code = {
        "a": "import circular.b",
        "b": "def f():\n    from circular import c",
        "c": "from circular.a import x",
        "d": "import circular.a",
    }
    folder = package({}).parent / "packages" / "circular"
    folder.mkdir(parents=True)
    for name, text in {"__init__": "", **code}.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder.parent)
    assert layout_limits.circles("circular") == [
        "circular.a -> circular.b -> circular.c import one another in a circle"
    ]
