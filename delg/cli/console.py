"""Talking to people on a terminal: results to stdout, talk and progress to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from delg.types import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

    Report = Callable[[int, int, int], None]

# Seconds between progress lines where the output is no terminal.
_EVERY = 5.0


def say(text: str) -> None:
    """A line of talk, to stderr."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def put(text: str) -> None:
    """A line of result, to stdout."""
    print(text)  # noqa: T201


def plural(count: int, noun: str) -> str:
    """ "1 photo", "2 photos"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """A table to stdout."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    # A pipe has no width: nothing is cut off there.
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(drawn)


def report_failures(failures: Iterable[Failure]) -> None:
    """Name each failure and its reason, to stderr."""
    for failure in failures:
        say(f"failed: {failure.path}: {failure.reason}")


@contextmanager
def progress(what: str) -> Iterator[Report]:
    """A progress bar with rate and time left; plain lines where stderr is no terminal.

    Yields:
        A function to call as ``report(done, total, failed)``.
    """
    started = time.monotonic()
    if not sys.stderr.isatty():
        last = [started]

        def lines(done: int, total: int, failed: int) -> None:
            now = time.monotonic()
            if now - last[0] >= _EVERY or done == total:
                last[0] = now
                rate = done / max(now - started, 1e-9)
                left = (total - done) / max(rate, 1e-9)
                say(
                    f"{what}: {done:,} of {total:,}, {rate:.1f}/s, {left:.0f} s left"
                    + (f", {failed:,} failed" if failed else "")
                )

        yield lines
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task(what, total=None, rate="")

        def update(done: int, total: int, failed: int) -> None:
            rate = f"{done / max(time.monotonic() - started, 1e-9):.1f}/s"
            if failed:
                rate += f", {failed:,} failed"
            bar.update(task, completed=done, total=total, rate=rate)

        yield update
