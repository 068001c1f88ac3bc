"""Training in stages: each starts from the model that the one before made.

DELF is trained so (Noh et al., arXiv 1612.06321): first the features, then, on features that no
longer change, the attention.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from delg.errors import UsageError
from delg.paths import exists
from delg.training.dataset import Progress, no_progress
from delg.training.finalize import TRAIN_FILE
from delg.training.loop import CHECKPOINTS, LAST, check_same_settings, train
from delg.training.settings import MODEL_FOLDER, TrainSettings

logger = logging.getLogger(__name__)


def train_in_stages(
    settings: TrainSettings, resume: bool = False, progress: Progress = no_progress
) -> Path:
    """Run all stages, or the single run; see :func:`delg.training.loop.train`.

    Resumed, finished stages are left as they are, the one that was interrupted goes on from its
    last checkpoint, and the rest follow. If all were finished, the last one's model is made again.

    Returns:
        The folder of the last stage's model.
    """
    stages = settings.in_stages()
    begun = [exists(stage.out / CHECKPOINTS / LAST) for stage in stages]
    if any(begun) and not resume:
        raise UsageError(
            f"{settings.out} holds an earlier run; continue it with --resume, or choose another out"
        )
    for number, stage in enumerate(stages):
        if len(stages) > 1:
            logger.info("stage %d of %d: %s", number + 1, len(stages), stage.out.name)
        record = stage.out / TRAIN_FILE
        if number + 1 < len(stages) and exists(record):
            check_same_settings(stage, json.loads(record.read_text(encoding="utf-8")), record)
            continue
        # Of a run that was interrupted between two stages, the next is yet to begin.
        train(stage, resume and (begun[number] or number == 0), progress)
    return stages[-1].out / MODEL_FOLDER
