"""Text for batch scripts: the characters that it must not have.

submitit quotes what it writes, and that is not enough. `#SBATCH --output='...` is a comment to the shell, so a quoted
newline ends it, and what follows is a command. Slurm itself replaces `%j` in the names of logs, and nothing
after a backslash. In both cases the log, and with it the record of the job, would not be found.
"""

from __future__ import annotations

import unicodedata
from typing import Annotated

from pydantic import AfterValidator

from stitching.config.schema import complaint

__all__ = ["ALLOWED", "WHY", "ScriptText", "check_script_text", "unfit_character"]

ALLOWED = "no control characters (line breaks, tabs), no % and no backslash"
WHY = "It is put into the batch scripts of Slurm, where these have another meaning."
_UNFIT_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")  # control characters, surrogates, line and paragraph separators


def unfit_character(text: str) -> str | None:
    """The first character of `text` that must not be in a batch script; None if there is none."""
    return next((c for c in text if c in "%\\" or unicodedata.category(c) in _UNFIT_CATEGORIES), None)


def check_script_text(text: str, *, key: str | None = None) -> str:
    """`text` as it is. Raises a complaint of the schema, at the place of `key` if given, if it is unfit."""
    character = unfit_character(text)
    if character is not None:
        raise complaint(f"{text!r} has the character {character!r}", ALLOWED, do=WHY, key=key)
    return text


ScriptText = Annotated[str, AfterValidator(check_script_text)]
