"""Several processes create the same indexes, each at the same moment."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from delg.errors import DelgError
from index import ImageIndex

# Seconds between two indexes.
_PACE = 0.1


def race(folder: Path, model: Path, processes: int, rounds: int) -> list[list[str]]:
    """Create ``rounds`` indexes by so many processes each.

    Returns:
        By index, how each process fared: "created", "opened", or its error.
    """
    start = time.time() + 6
    command = [sys.executable, __file__, str(folder), str(model), str(start), str(rounds)]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(processes)]
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
    folder, model, start, rounds = sys.argv[1:]
    answers = []
    for number in range(int(rounds)):
        time.sleep(max(0, float(start) + number * _PACE - time.time()))
        answers.append(_attempt(Path(folder) / f"{number}.index", model))
    sys.stdout.write(json.dumps(answers))
