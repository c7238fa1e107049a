"""What every user's mistake must lead to: one message that says where it is, and no file written."""

from __future__ import annotations

from pathlib import Path


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_user_error(outcome, where: str, message: str) -> None:
    """The command ended with code 2 and one error, or one list of errors, at `where` and with `message` in it."""
    assert outcome.code == 2, outcome
    assert outcome.err.count("error: ") == 1, outcome.err
    assert f"error: {where}" in outcome.err or f"\n- {where}" in outcome.err, outcome.err
    assert message in outcome.err, outcome.err
    assert "Traceback" not in outcome.err + outcome.out
