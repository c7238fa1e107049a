"""The git commit of the code that trains."""

from __future__ import annotations

import subprocess

from stitching.runs.provenance import git_state


def test_the_commit_of_a_checkout_and_whether_it_was_changed(tmp_path):
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    package = tmp_path / "stitching"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert git_state(package) == {}  # no repository
    git("init", "-q")
    assert git_state(package) == {}  # one that does not track it
    git("add", ".")
    assert git_state(package) == {}  # nothing is committed
    git("commit", "-qm", "first")
    commit = git("rev-parse", "HEAD").strip()
    assert git_state(package) == {"commit": commit, "modified": False}
    (tmp_path / "sweep.yml").write_text("")  # beside the package
    assert git_state(package) == {"commit": commit, "modified": False}
    (package / "new.py").write_text("")
    assert git_state(package) == {"commit": commit, "modified": True}
    assert git_state(tmp_path / "nowhere") == {}
