"""Several processes create the same indexes, each at the same moment."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from delg.errors import DelgError
from index import ImageIndex

# Seconds until the first index, and between two.
_LEAD, _PACE = 0.3, 0.1


def race(folder: Path, model: Path, processes: int, rounds: int) -> list[list[str]]:
    """Create ``rounds`` indexes by so many processes each.

    Returns:
        By index, how each process fared: "created", "opened", or its error.
    """
    command = [sys.executable, __file__, str(folder), str(model), str(rounds)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen(command, **pipes) for _ in range(processes)]
    for racer in racers:
        assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
    start = str(time.time() + _LEAD)
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write(f"{start}\n")
        racer.stdin.flush()
    outcomes = [json.loads(racer.communicate()[0]) for racer in racers]
    return [list(outcome) for outcome in zip(*outcomes, strict=True)]


def _attempt(place: Path, model: str) -> str:
    try:
        ImageIndex.create(place, model).close()
        return "created"
    except DelgError as error:
        if "exists and is not empty" not in str(error):
            return str(error)
    except Exception as error:
        return repr(error)
    with ImageIndex.open_or_create(place, model) as images:
        return "opened" if images.check().problems == [] else "damaged"


if __name__ == "__main__":
    folder, model, rounds = sys.argv[1:]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    start = float(sys.stdin.readline())
    answers = []
    for number in range(int(rounds)):
        time.sleep(max(0, start + number * _PACE - time.time()))
        answers.append(_attempt(Path(folder) / f"{number}.index", model))
    sys.stdout.write(json.dumps(answers))
