"""A user's own parts, data sets, losses ...: Python files that a job or a sweep names under `plugins:`.

They are imported before the rest of the document is validated, so that what they register can be named in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stitching.config.errors import UserError, at
from stitching.config.registries import undo_if_it_fails
from stitching.config.user_code import load_user_code, resolved_code, user_code_digest
from stitching.config.yaml import Document

__all__ = ["load_plugins", "plugin_digests"]

_LOADED: dict[str, str] = {}  # digests of what has been imported in this process, by name


def load_plugins(document: Document) -> None:
    """Import the plugins that a document names; what else is wrong with the key is left to its schema.

    Raises:
        UserError: with file and line of the document: a plugin does not exist, raises, registers a name that is taken,
            or has changed since it was imported in this process.
    """
    names = document.data.get("plugins") if isinstance(document.data, dict) else None
    for i, name in enumerate(names if isinstance(names, list) else []):
        if not isinstance(name, str) or not name:
            continue
        try:
            with at("plugins", i):
                _load(resolved_code(name, document.folder_of(("plugins", i))))
        except UserError as error:
            raise document.locate(error) from None


def _load(name: str) -> None:
    if name in _LOADED and _LOADED[name] != user_code_digest(name, Path()):
        raise UserError(
            f"{name} has changed since this process imported it",
            do="Start Python again: what a plugin has registered cannot be taken back.",
        )
    with undo_if_it_fails():
        _LOADED[name] = load_user_code(name, Path()).digest


def plugin_digests(plugins: Sequence[str]) -> list[str]:
    """The digests of the code of plugins, as it was imported if it has been; each once, in a fixed order."""
    return sorted({_LOADED.get(name) or user_code_digest(name, Path()) for name in plugins})
