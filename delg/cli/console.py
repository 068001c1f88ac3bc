"""Talking to people on a terminal: results to stdout; logs and progress to stderr.

Only command lines import this; library code logs.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from delg.cli.streams import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from delg.types import Failure

    Report = Callable[[int, int, int], None]

log = logging.getLogger(__name__)
# Loggers whose records users see.
_PACKAGES = ("delg", "index", "eval")
# Seconds between progress lines where the output is no terminal.
_INTERVAL = 5.0
# Columns of a line that need not end.
_UNLIMITED = 100_000


def print_result(text: str) -> None:
    """A line of result, to stdout; control characters, as names may have them, are escaped."""
    print(printable(text), flush=True)  # noqa: T201


def print_json(value: Any) -> None:
    """A value as one line of JSON, to stdout."""
    print_result(json.dumps(value))


def plural(count: int, noun: str) -> str:
    """ "1 photo", "2 photos"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def table(columns: Iterable[str], rows: Iterable[Iterable[str]], fold_last: bool = False) -> None:
    """A table to stdout. Nothing is cut: what is wider than the terminal goes on in its next line.

    Args:
        fold_last: fold the last column, of prose, at the width of the terminal instead.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    folds = fold_last and sys.stdout.isatty()
    content = Table(box=None, pad_edge=False, header_style="none")
    names = list(columns)
    for number, name in enumerate(names, 1):
        is_folded = folds and number == len(names)
        header = Text(name, style="bold")
        content.add_column(
            header, no_wrap=not is_folded, overflow="fold" if is_folded else "ignore"
        )
    for row in rows:
        content.add_row(*(Text(printable(cell)) for cell in row))
    console = Console() if folds else Console(width=_UNLIMITED)
    with console.capture() as capture:
        console.print(content)
    # Blanks up to the widest row would take lines of their own on a narrow terminal.
    for line in capture.get().splitlines():
        print(line.rstrip())  # noqa: T201
    sys.stdout.flush()


def report_failures(failures: Iterable[Failure]) -> None:
    """Name each failure and its reason, to stderr."""
    for failure in failures:
        log.info("failed: %s: %s", failure.path, failure.reason)


class _StderrHandler(logging.Handler):
    """Records as lines on stderr, whichever stream that is at the time.

    On a terminal rich prints them, so that they appear above a progress bar, not inside it.
    """

    terminal: Console | None = None

    def format(self, record: logging.LogRecord) -> str:
        text = printable(super().format(record))
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self.terminal is None:
                print(self.format(record), file=sys.stderr, flush=True)  # noqa: T201
            else:
                self.terminal.print(
                    self.format(record), markup=False, highlight=False, soft_wrap=True
                )
        except Exception:
            self.handleError(record)


_HANDLER = _StderrHandler()


def log_to_stderr(propagate: bool = True) -> None:
    """Show the records of our packages from INFO on; calling it again adds nothing.

    Args:
        propagate: also pass them to the root logger's handlers. Libraries such as tf2onnx add one
            that would print every line again.
    """
    for name in _PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(_HANDLER)
        logger.propagate = propagate


@contextmanager
def progress(description: str) -> Iterator[Report]:
    """A progress bar with rate and time left; plain lines where stderr is no terminal.

    Yields:
        A function to call as ``report(done, total, failed)``.
    """
    started = time.monotonic()
    if sys.stderr.isatty():
        with _progress_bar(description, started) as report:
            yield report
        return
    last = started

    def report_line(done: int, total: int, failed: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _INTERVAL or done == total:
            last = now
            rate = done / max(now - started, 1e-9)
            left = (total - done) / max(rate, 1e-9)
            failures = f", {failed:,} failed" if failed else ""
            log.info(
                "%s: %s of %s, %.1f/s, %.0f s left%s",
                description, f"{done:,}", f"{total:,}", rate, left, failures,
            )  # fmt: skip

    yield report_line


@contextmanager
def _progress_bar(description: str, started: float) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
    ) as bar:
        task = bar.add_task(description, total=None, rate="")

        def update(done: int, total: int, failed: int) -> None:
            rate = f"{done / max(time.monotonic() - started, 1e-9):.1f}/s"
            if failed:
                rate += f", {failed:,} failed"
            bar.update(task, completed=done, total=total, rate=rate)

        _HANDLER.terminal = console
        try:
            yield update
        finally:
            _HANDLER.terminal = None
