"""Reliability, for minutes or hours: ``run.py [STAGE …] [--seconds N] [--seed N]``.

Every stage prints "tried N, bad M"; the exit code is 1 if anything is bad. pytest does not run it.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from crashes import corrupted_files, full_disks, kills, kills_at_calls, odd_catalogs
from create_race import race as create_race
from dots import gallery, model_folder, write_words
from hostile import (
    archives,
    arrays,
    colmap_folders,
    delf_files,
    feature_files,
    mat_files,
    photos,
    runs,
    settings_files,
    weights,
)
from server_attacks import attacks
from shards import shards
from shortlist_race import race as shortlist_race
from stage import Stage


def create_races(stage: Stage) -> None:
    """Processes that create the same index."""
    rounds = max(5, int(stage.seconds * 2))
    for outcomes in create_race(stage.folder, stage.model, 2, rounds):
        stage.count(sorted(outcomes) == ["created", "opened"], outcomes)


def shortlist_races(stage: Stage) -> None:
    """The file of the shortlist, read while it is written."""
    tried, bad = shortlist_race(stage.folder, stage.seconds)
    stage.tried, stage.bad = tried, bad


STAGES = {
    function.__name__: function
    for function in (
        *(kills, kills_at_calls, full_disks, corrupted_files, odd_catalogs),
        *(photos, arrays, archives, feature_files, delf_files, colmap_folders),
        *(weights, runs, mat_files, settings_files),
        *(create_races, shortlist_races, attacks, shards),
    )
}


def main() -> int:
    """Run the stages of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--seconds", type=float, default=300, help="of each stage")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    # Decoders warn of what they then refuse.
    warnings.simplefilter("ignore")
    bad = 0
    for name in options.stages or STAGES:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            (place / "model").mkdir()
            model = write_words(model_folder(place / "model"), gallery(place / "sample", 10))
            stage = Stage(place, model, options.seconds, random.Random(options.seed))
            STAGES[name](stage)
        print(f"{name}: tried {stage.tried:,}, bad {stage.bad:,} (seed {options.seed})", flush=True)  # noqa: T201
        bad += stage.bad
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
