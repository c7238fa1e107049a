"""Registries: what a config may name, and what is said of a name that is unknown or taken."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod

import pytest

from stitching.config.errors import UserError
from stitching.config.registries import Registry


def test_an_entry_is_found_by_its_name_and_a_slip_gets_the_nearest():
    colours: Registry[str] = Registry("colour")
    colours.register("vermilion")("#e34234")
    assert colours["vermilion"] == "#e34234"
    assert list(colours) == ["vermilion"]
    with pytest.raises(UserError, match="no colour 'vermillion'; did you mean 'vermilion'"):
        colours["vermillion"]


def test_a_name_is_registered_once():
    shapes: Registry[type] = Registry("shape")

    @shapes.register("square")
    class Square:
        pass

    with pytest.raises(UserError, match=f"'square' is registered twice: by {__file__} and by"):
        shapes.register("square")(type("Other", (), {}))
    assert shapes["square"] is Square


def test_a_class_that_lacks_a_method_is_not_registered():
    class Shape(ABC):
        @abstractmethod
        def area(self): ...

    shapes: Registry[type] = Registry("shape")
    with pytest.raises(UserError, match="the shape 'blob' lacks the method area"):
        shapes.register("blob")(type("Blob", (Shape,), {}))
    assert "blob" not in shapes


def test_the_home_is_imported_when_the_registry_is_read_and_not_before(tmp_path, monkeypatch):
    (tmp_path / "home_of_sounds.py").write_text("import registries_in_use as r\nr.SOUNDS.register('hiss')(1)\n")
    (tmp_path / "registries_in_use.py").write_text(
        "from stitching.config.registries import Registry\nSOUNDS = Registry('sound', 'home_of_sounds')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from registries_in_use import SOUNDS  # type: ignore[import-not-found]

    assert "home_of_sounds" not in sys.modules
    assert "hiss" in SOUNDS
    assert len(SOUNDS) == 1


def test_a_name_of_ours_is_taken_before_ours_are_imported(tmp_path, monkeypatch):
    (tmp_path / "home_of_smells.py").write_text("import smells_in_use as r\nr.SMELLS.register('rose')(1)\n")
    (tmp_path / "smells_in_use.py").write_text(
        "from stitching.config.registries import Registry\nSMELLS = Registry('smell', 'home_of_smells')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from smells_in_use import SMELLS  # type: ignore[import-not-found]

    with pytest.raises(UserError, match="'rose' is registered twice"):
        SMELLS.register("rose")(2)
