"""What stages share: a folder, a clock, chance, and the count of what was tried and went wrong."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from delg.errors import DelgError

# A reader may take so much processor time to read or refuse a small file, and so long in all on a
# machine that others use too.
_SLOW_SECONDS, _HUNG_SECONDS = 20.0, 180.0


@dataclass
class Stage:
    """One stage: its folder, the model of dots, how long it may take, and its chance."""

    folder: Path
    model: Path
    seconds: float
    chance: random.Random
    tried: int = 0
    bad: int = 0
    _started: float = field(default_factory=time.monotonic)

    def runs(self) -> bool:
        """Whether there is time for another try."""
        return time.monotonic() - self._started < self.seconds

    def count(self, good: bool, about: object) -> None:
        """Count a try, and say what went wrong."""
        self.tried += 1
        if not good:
            self.bad += 1
            print(f"bad: {about}", file=sys.stderr, flush=True)  # noqa: T201

    def expect(self, action: Callable[[], object], about: object) -> None:
        """Count a try that must succeed or be refused with a clear error, in time."""
        started, worked = time.monotonic(), time.process_time()
        try:
            action()
            good, error = True, ""
        except DelgError:
            good, error = True, ""
        except BaseException as failure:
            if isinstance(failure, KeyboardInterrupt):
                raise
            good, error = False, repr(failure)
        seconds, work = time.monotonic() - started, time.process_time() - worked
        is_quick = work < _SLOW_SECONDS and seconds < _HUNG_SECONDS
        self.count(good and is_quick, f"{about}: {error or f'{work:.0f} of {seconds:.0f} s'}")

    def mutated(self, data: bytes) -> bytes:
        """Bytes with a few of them changed, cut out, doubled or cut off."""
        mutant = bytearray(data)
        for _ in range(self.chance.randint(1, 6)):
            place = self.chance.randrange(max(1, len(mutant)))
            length = self.chance.randint(1, 64)
            change = self.chance.randrange(5)
            if change == 0:
                mutant[place : place + 1] = bytes([self.chance.randrange(256)])
            elif change == 1:
                del mutant[place : place + length]
            elif change == 2:
                mutant[place:place] = mutant[place : place + length]
            elif change == 3:
                mutant[place : place + 4] = bytes([self.chance.choice([0, 0x7F, 0xFF])]) * 4
            elif self.chance.random() < 0.2:
                del mutant[place:]
        return bytes(mutant)
