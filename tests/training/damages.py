"""Files as a bad disk leaves them."""

from __future__ import annotations

import random
from collections.abc import Iterator


def damaged(data: bytes, cases: int) -> Iterator[bytes]:
    """`data` with one to five flipped bits, a zeroed block, or its end cut off; the same cases each time."""
    chance = random.Random(0)
    for case in range(cases):
        changed = bytearray(data)
        if case % 4 == 3:
            start = chance.randrange(len(data))
            changed[start : start + 4096] = bytes(len(changed[start : start + 4096]))
        elif case % 16 == 2:
            del changed[chance.randrange(len(data)) :]
        else:
            for _ in range(chance.randint(1, 5)):
                changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        if changed != data:
            yield bytes(changed)
