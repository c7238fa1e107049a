"""What every mistake of a user's must lead to: one message that names the place, and nothing written."""

from __future__ import annotations

from pathlib import Path


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_told(outcome, place: str, words: str) -> None:
    """The command ended with code 2 and one message, or a list of them, at `place` and with `words` in it."""
    assert outcome.code == 2, outcome
    assert outcome.err.count("error: ") == 1, outcome.err
    assert f"error: {place}" in outcome.err or f"\n- {place}" in outcome.err, outcome.err
    assert words in outcome.err, outcome.err
    assert "Traceback" not in outcome.err + outcome.out
