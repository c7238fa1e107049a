"""The exception for mistakes that a user can correct, and its message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

__all__ = [
    "ErrorCollector",
    "UserError",
    "UserErrors",
    "at",
    "did_you_mean",
    "first_line",
    "nearest",
    "reason_of",
    "shortened",
    "unknown_name",
]


class UserError(Exception):
    """A user's mistake: shown as one message, never as a traceback.

    Args:
        problem: what is wrong, in one sentence that names the wrong value.
        allowed: what would have been right.
        do: what to do about it.
        path: the keys that lead to the value in the YAML file, outermost first; `at` adds to its front while the error
            travels up, and the loaded document turns it into a file and a line.
    """

    def __init__(
        self,
        problem: str,
        *,
        allowed: str | None = None,
        do: str | None = None,
        path: tuple[str | int, ...] = (),
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.allowed = allowed
        self.do = do
        self.path = path
        self.location: str | None = None  # "config.yml:12", once a document has located the path

    def __str__(self) -> str:
        location = f"{self.location}: " if self.location else ""
        key = ".".join(str(part) for part in self.path)
        lines = [f"{location}{key}: {self.problem}" if key else f"{location}{self.problem}"]
        if self.allowed:
            lines.append(f"  allowed: {self.allowed}")
        if self.do:
            lines.append(f"  {self.do}")
        return "\n".join(lines)


class UserErrors(UserError):
    """Several mistakes, shown as one list, each once."""

    def __init__(self, errors: Iterable[UserError]) -> None:
        self.errors = list({str(error): error for error in errors}.values())
        super().__init__(f"{len(self.errors)} things are wrong")

    def __str__(self) -> str:
        items = (str(error).replace("\n", "\n  ") for error in self.errors)
        return f"{self.problem}\n" + "\n".join(f"- {item}" for item in items)


class ErrorCollector:
    """Errors that are collected, so that a user sees all of them at once.

    >>> mistakes = ErrorCollector()
    >>> for model in models:
    ...     with mistakes.collect():
    ...         look_at(model)
    >>> mistakes.raise_all()
    """

    def __init__(self) -> None:
        self.errors: list[UserError] = []

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Keep a `UserError` of the body for later, and continue after it."""
        try:
            yield
        except UserErrors as several:
            self.errors += several.errors
        except UserError as error:
            self.errors.append(error)

    def raise_all(self) -> None:
        """Raise the collected errors, if there are any: one `UserError`, or several as `UserErrors`."""
        several = UserErrors(self.errors)
        if several.errors:
            raise several if len(several.errors) > 1 else several.errors[0]


@contextmanager
def at(*keys: str | int) -> Iterator[None]:
    """Put `keys` in front of the path of a `UserError` that leaves the body."""
    try:
        yield
    except UserError as error:
        for item in error.errors if isinstance(error, UserErrors) else [error]:
            if item.location is None:
                item.path = (*keys, *item.path)
        raise


def first_line(error: BaseException) -> str:
    """The first line of an exception's message; its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def reason_of(error: BaseException) -> str:
    """The message of a library's exception in one line; with its type where the message alone is unclear."""
    message = getattr(error, "strerror", None) or str(error).strip()
    line = message.splitlines()[0] if message else ""
    if line and not isinstance(error, LookupError | ArithmeticError | AttributeError | MemoryError | RecursionError):
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def shortened(value: object, length: int = 60) -> str:
    """`value` as Python writes it, in at most `length` characters."""
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."


def nearest(name: object, choices: Iterable[str]) -> str | None:
    """The choice that looks most like `name`, or None when nothing does."""
    by_lower = {str(choice).lower(): str(choice) for choice in choices}
    matches = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[matches[0]] if matches else None


def did_you_mean(name: object, choices: Iterable[str]) -> str:
    """The end of a message about an unknown name: `; did you mean 'x'?` with the nearest choice, or nothing."""
    best = nearest(name, choices)
    return f"; did you mean {best!r}?" if best else ""


def unknown_name(kind: str, name: object, choices: Iterable[str], *, path: tuple[str | int, ...] = ()) -> UserError:
    """A `UserError` for an unknown name, with the allowed names and the nearest of them.

    Long lists of choices are cut to the twelve that look most like `name`.
    """
    choices = sorted(map(str, choices))
    shown = choices
    if len(choices) > 24:
        shown = difflib.get_close_matches(str(name)[:200], choices, n=12, cutoff=0.0)
    rest = f", ... ({len(choices)} in all)" if len(shown) < len(choices) else ""
    return UserError(
        f"there is no {kind} {shortened(str(name), 120)}{did_you_mean(name, choices)}",
        allowed=", ".join(shown) + rest,
        path=path,
    )
