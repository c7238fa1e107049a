"""Snapshots of the code: stored once, whole or not at all, and never run when damaged."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

import stitching.launch.snapshots as snapshots
from stitching.config.errors import UserError
from stitching.launch.snapshots import current_snapshot, nobody_submits, snapshot_environment, snapshot_path
from stitching.runs.checked import checked_json
from stitching.runs.code import PACKAGE, code_digest, code_files, digest_of


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return tmp_path / "project" / "a sweep"


def made(sweep: Path) -> Path:
    with current_snapshot(sweep) as snapshot:
        return snapshot


def started(snapshot: Path, imported: Path) -> subprocess.CompletedProcess[str]:
    """A task without runs, which ends where it has come through its check."""
    command = [sys.executable, "-m", "stitching.launch.start", str(snapshot)]
    env = snapshot_environment(imported)
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_content_is_stored_once(sweep):
    path = made(sweep)
    assert path == snapshot_path(sweep) == sweep.parent / ".code" / code_digest()
    assert contents(path.parent) == [".lock", code_digest()]
    assert code_files(path / "stitching") == code_files(PACKAGE)
    before = path.stat().st_mtime_ns, path.stat().st_ino
    assert made(sweep.with_name("another sweep")) == path
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before


def test_of_two_submits_at_once_the_faster_stores_it(sweep, monkeypatch):
    inodes = []

    def other_is_faster(content: object) -> bytes:  # just before the rename
        monkeypatch.setattr(snapshots, "checked_json", checked_json)
        inodes.append(made(sweep).stat().st_ino)
        return checked_json(content)

    monkeypatch.setattr(snapshots, "checked_json", other_is_faster)
    path = made(sweep)
    assert [path.stat().st_ino] == inodes
    assert contents(path.parent) == [".lock", code_digest()]


def test_on_a_file_system_without_locks_code_is_stored_and_never_counts_as_unused(sweep, monkeypatch):
    def without_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(snapshots.fcntl, "flock", without_locks)
    path = made(sweep)
    with nobody_submits(path.parent) as free:
        assert not free


def test_other_code_is_another_snapshot_and_leaves_the_first(sweep, tmp_path, monkeypatch):
    first = made(sweep)
    other = tmp_path / "checkout" / "stitching"
    for name, content in code_files(PACKAGE).items():
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_bytes(content)
    (other / "processes.py").write_text("raise SystemExit('edited')\n")
    monkeypatch.setattr(snapshots, "PACKAGE", other)
    second = made(sweep)
    assert second != first
    assert code_files(first / "stitching") == code_files(PACKAGE)
    assert code_files(second / "stitching") == code_files(other)


@pytest.mark.parametrize("damage", ["changed", "missing", "added", "record"])
def test_a_damaged_snapshot_is_told_and_not_run(sweep, damage):
    snapshot = made(sweep)
    victim = snapshot / ("code.json" if damage == "record" else "stitching/training/metrics.py")
    if damage == "missing":
        victim.unlink()
    elif damage == "added":
        victim.with_name("more.py").write_text("")
    else:
        victim.write_bytes(victim.read_bytes().replace(b"a", b"b", 1))
    outcome = started(snapshot, snapshot)
    assert outcome.returncode == 1
    assert f"the code in {snapshot} is damaged, so nothing was run" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert made(sweep) == snapshot  # the next submit makes it whole
    assert digest_of(code_files(snapshot / "stitching")) == snapshot.name
    assert len([name for name in contents(snapshot.parent) if name.endswith(".damaged")]) == 1


def test_a_task_that_imports_other_code_is_told_and_not_run(sweep):
    snapshot = made(sweep)
    outcome = started(snapshot, PACKAGE.parent)
    assert outcome.returncode == 1
    assert f"submitted with the code in {snapshot}, but Python imports {PACKAGE}" in outcome.stderr


def test_a_task_imports_nothing_before_the_code_is_checked(sweep):
    snapshot = made(sweep)
    script = "import stitching.launch.start, sys; print([m for m in sys.modules if m.startswith('stitching')], 'torch' in sys.modules)"
    env = snapshot_environment(snapshot)
    out = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True).stdout
    assert "'stitching.runs.code'" in out
    assert out.count("'stitching") == 6, out
    assert out.endswith("False\n")


def test_a_project_where_it_cannot_be_stored_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot store the code"):
        made(tmp_path / "file" / "sweep")
    with pytest.raises(UserError, match="there is a ':' in its path"):
        made(tmp_path / "a:b" / "sweep")


def test_the_commit_of_a_snapshot_is_that_of_a_clean_checkout_once_there_is_one(sweep, monkeypatch):
    states = iter(
        [{"commit": "1", "modified": True}, {"commit": "2", "modified": False}, {"commit": "3", "modified": False}]
    )
    monkeypatch.setattr(snapshots, "git_state", lambda package: next(states))
    found = [json.loads((made(sweep) / "code.json").read_text())["content"]["commit"] for _ in range(3)]
    assert found == ["1", "2", "2"]
