"""Paths that a user wrote: what is told of those that name no file that can be read."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from stitching.config.errors import UserError
from stitching.config.paths import check_regular_file, resolved_path


def test_paths_start_from_the_folder_of_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert resolved_path("a/../b.pt", tmp_path) == tmp_path / "b.pt"
    assert resolved_path("~/b.pt", tmp_path) == tmp_path / "home" / "b.pt"
    assert resolved_path("/b.pt", tmp_path) == Path("/b.pt")


@pytest.mark.parametrize("text", ["~nobody-of-this-name/x", "a\0b", "\ud800"])
def test_what_is_no_path(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="is no path"):
        check_regular_file(resolved_path(text, tmp_path))


def test_only_regular_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(tmp_path)  # the name of a socket is short
        listening.bind("socket")
        for name, problem in {
            "pipe": "a pipe", "socket": "a socket", ".": "a folder", "/dev/zero": "a device", "missing": "there is no file",
            "file/below": "there is no file", "one": "is no path", "n" * 300: "is no path: File name too long",
        }.items():  # fmt: skip
            with pytest.raises(UserError, match=problem):
                check_regular_file(name)
    assert check_regular_file(tmp_path / "file").st_size == 0
