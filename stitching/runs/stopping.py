"""Requests to stop: signals make them, and the training loop stops at the next step boundary."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["Interrupted", "StopRequest"]


class Interrupted(Exception):
    """Training was asked to stop, and stopped with a checkpoint of every run."""


@dataclass
class StopRequest:
    """A request to stop at the next step boundary."""

    asked: bool = False
    number: int | None = None  # of the first signal

    @contextmanager
    def on_signals(self) -> Iterator[StopRequest]:
        """Within the body, SIGINT, SIGTERM and SIGUSR2 ask to stop; a second SIGINT stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return

        def ask(number: int, _frame: Any) -> None:
            if self.asked and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.asked, self.number = True, self.number or number

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
