"""A YAML file made wrong in every way that one slip makes: each key dropped, misspelt or doubled, each value odd."""

from __future__ import annotations

import copy
import math
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stitching.config.yaml import yaml_text

ODD_VALUES: list[Any] = [
    None, True, -1, 0, 1, 0.5, 7, 100, 10**6, 10**22, 1e300, -1e-300, math.nan, math.inf, "", "x", "long " * 4000,
    "../..", "a/b", "a%j\n$(b)'\"", "~nobody/x", [], {}, [[1]], [{"a": 1}], [None], ["x", "x"], {"a": {"b": [1]}},
]  # fmt: skip
_TWICE = "@twice"
Keys = tuple[str | int, ...]


def slips(data: Any) -> Iterator[tuple[str, str]]:
    """Every slip in `data`, in words, and the YAML with it."""
    for keys in _places(data):
        title = ".".join(map(str, keys))
        key = keys[-1]
        if isinstance(key, str):
            yield f"{title} dropped", _with(data, keys, {})
            value = _at(data, keys)
            yield f"{title} misspelt", _with(data, keys, {key[:-1] or "q": value})
            yield f"{title} doubled", _with(data, keys, {key: value, key + _TWICE: value}).replace(_TWICE, "")
        for value in ODD_VALUES:
            yield f"{title} = {value!r:.40}", _with(data, keys, {key: value})


def some_slips(data: Any, number: int) -> list[tuple[str, str]]:
    """A sample of `slips` that is the same every time."""
    known = list(slips(data))
    return random.Random(8).sample(known, min(number, len(known)))


def _places(data: Any, keys: Keys = ()) -> Iterator[Keys]:
    children = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in children:
        yield (*keys, key)
        yield from _places(value, (*keys, key))


def _at(data: Any, keys: Keys) -> Any:
    for key in keys:
        data = data[key]
    return data


def _with(data: Any, keys: Keys, items: dict[Any, Any]) -> str:
    """The YAML of `data` with `items` in the place of what stands at `keys`."""
    changed = copy.deepcopy(data)
    parent = _at(changed, keys[:-1])
    if isinstance(parent, list):
        parent[keys[-1]] = items[keys[-1]]
    else:
        before = dict(parent)
        parent.clear()
        for key, value in before.items():
            parent |= items if key == keys[-1] else {key: value}
    return yaml_text(changed)


class TookTooLong(BaseException):
    """No `except Exception` may swallow it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Stop the body after so many seconds of this process's work, or six times as many on the clock."""

    def stop(*_: object) -> None:
        raise TookTooLong

    timers = [(signal.ITIMER_PROF, signal.SIGPROF, seconds), (signal.ITIMER_REAL, signal.SIGALRM, 6 * seconds)]
    before = [(number, signal.signal(number, stop)) for _, number, _ in timers]
    try:
        for timer, _, limit in timers:
            signal.setitimer(timer, limit)
        yield
    finally:
        for timer, _, _ in timers:
            signal.setitimer(timer, 0)
        for number, handler in before:
            signal.signal(number, handler)
