"""How long the stages of a query take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

_STAGES = "extract", "search", "rerank"


class StageTimer:
    """Adds up the time of each stage."""

    def __init__(self) -> None:
        self._milliseconds = dict.fromkeys(_STAGES, 0.0)

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Count what happens inside as that stage."""
        started = time.perf_counter()
        yield
        self._milliseconds[stage] += (time.perf_counter() - started) * 1000

    def take(self) -> dict[str, float]:
        """Milliseconds by stage since the last call."""
        taken = {stage: round(value, 2) for stage, value in self._milliseconds.items()}
        self._milliseconds = dict.fromkeys(_STAGES, 0.0)
        return taken
