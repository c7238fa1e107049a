"""Making text from files and folder names safe to show."""

from __future__ import annotations

import html
import unicodedata

__all__ = ["escape", "printable"]


def printable(text: str, keep: str = "") -> str:
    r"""`text` with invisible characters escaped: an escape character as `\x1b`, a line break as `\n`.

    Names in a config, in metadata or of a folder may hold anything. Shown as they are they could move a terminal's
    cursor, pass for another row of a table, reverse the reading order, or fail to be encoded (half a surrogate pair).

    Args:
        keep: characters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(char if _is_shown(char) or char in keep else _escaped(char) for char in text)


def escape(text: str) -> str:
    """`text` for an HTML page: markup and unprintable characters escaped."""
    return html.escape(printable(text, keep="\n\t"))


def _is_shown(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) == "Zs"  # spaces of other widths


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()
