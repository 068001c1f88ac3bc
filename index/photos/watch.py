"""Follow folders: tell when photos in them have changed, once they have come to rest."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from delg.errors import UsageError
from delg.paths import is_folder

# Seconds after which one looks again for a stop.
_TICK = 0.2


def watch(
    folders: Sequence[Path],
    changed: Callable[[], None],
    settle: float,
    stop: threading.Event,
) -> None:
    """Call ``changed`` at once, and after each change in the folders, until ``stop`` is set.

    Args:
        folders: with their subfolders.
        settle: seconds without a further change to wait for, so that files are complete.

    Raises:
        UsageError: watchdog is not installed, or one is no folder.
    """
    try:
        from watchdog.events import FileSystemEvent, FileSystemEventHandler
        from watchdog.observers import Observer
    except ImportError:
        raise UsageError("needs watchdog: pip install 'delg-retrieval[watch]'") from None
    for folder in folders:
        if not is_folder(folder):
            raise UsageError(f"{folder}: no such folder")
    last = [0.0]

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            # Reading photos, as adding them does, is no change.
            if event.event_type not in ("opened", "closed_no_write"):
                last[0] = time.monotonic()

    observer = Observer()
    for folder in folders:
        observer.schedule(Handler(), str(folder), recursive=True)
    observer.start()
    try:
        # After the observer has started: no change falls between the two.
        changed()
        while not stop.wait(_TICK):
            if last[0] and time.monotonic() - last[0] >= settle:
                last[0] = 0.0
                changed()
    finally:
        observer.stop()
        observer.join()
