"""Why runs failed: the values of `cause` in metadata.yml, which `status` and `retry` use."""

from __future__ import annotations

__all__ = ["CAUSES", "DIVERGED", "ERROR", "KILLED", "OUT_OF_MEMORY"]

ERROR = "error"
OUT_OF_MEMORY = "out of memory"
DIVERGED = "diverged"
KILLED = "killed"
CAUSES = (ERROR, OUT_OF_MEMORY, DIVERGED, "time limit", "node failure", KILLED, "cancelled", "preempted")
