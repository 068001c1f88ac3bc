"""A training run from settings to a model's folder."""

from __future__ import annotations

import logging
import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from delg.errors import DelgError, UsageError
from delg.files import file_sha256, make_folder
from delg.network.delg_model import Delg
from delg.paths import exists
from delg.settings import parse
from delg.training import checkpoint as checkpoints
from delg.training.batches import Batch, Batches
from delg.training.dataset import Progress, TrainingData, load_training_data, no_progress
from delg.training.distillation import TargetBank
from delg.training.finalize import evenly_spaced, export_trained_model
from delg.training.image_cache import readable
from delg.training.initial_weights import initial_weights_digest, load_initial_weights
from delg.training.label_cleaning import drop_noisy_labels
from delg.training.monitor import Monitor
from delg.training.settings import TrainSettings
from delg.training.targets import read_targets
from delg.training.trainer import NotFiniteError, Trainer
from delg.training.training_model import TrainingModel
from delg.training.validation import Embedder, Validation

logger = logging.getLogger(__name__)

CHECKPOINTS, LAST, BEST = "checkpoints", "last.h5", "best.h5"
# Which labels were kept, in the run's folder.
CLEANING_FILE = "believed.npz"
# What may differ when a run is resumed: what it writes and says, and what is done to the weights
# afterwards. Where starting weights and targets lie may change as well: their hashes are compared.
_FREE: dict[str, Any] = {
    **dict.fromkeys(("out", "start", "finalize", "photo_terms", "teacher_terms"), True),
    "data": {"targets"},
    "schedule": {"log_every", "checkpoint_every", "validate_every", "keep_every", "threads"},
    "model": {"name", "description", "extraction"},
}


def train(settings: TrainSettings, resume: bool = False, progress: Progress = no_progress) -> Path:
    """Run the training that the settings describe.

    Args:
        settings: everything.
        resume: continue from the last checkpoint in ``settings.out``.
        progress: shows how far decoding and training are.

    Returns:
        The folder of the finished model.

    Raises:
        UsageError: settings, photos or checkpoints do not fit each other.
        DelgError: a loss is not finite, or files cannot be written.
    """
    last = settings.out / CHECKPOINTS / LAST
    if exists(last) and not resume:
        raise UsageError(
            f"{settings.out} holds an earlier run; continue it with --resume, or choose another out"
        )
    if resume and not exists(last):
        raise UsageError(f"{last}: nothing to resume")
    make_folder(settings.out)
    keras.utils.set_random_seed(settings.seed)
    keras.mixed_precision.set_global_policy(settings.schedule.precision)
    try:
        run = _Run(settings, progress)
        if resume:
            run.restore(last)
        metrics = run.train()
        return export_trained_model(settings, run.data, run.trainer, metrics)
    finally:
        keras.mixed_precision.set_global_policy("float32")


class _Run:
    """A run under way.

    Attributes:
        data: its photos.
        trainer: its weights.
    """

    def __init__(self, settings: TrainSettings, progress: Progress) -> None:
        self._settings, self._progress = settings, progress
        self.data = load_training_data(settings, progress)
        mirrored, cleaning, dropped = settings.schedule.mirrored, settings.data.cleaning, 0
        strategy = tf.distribute.MirroredStrategy() if mirrored else tf.distribute.get_strategy()
        with strategy.scope() if mirrored else nullcontext():
            self._model = Delg(settings.model)
            load_initial_weights(self._model, settings.start)
            if cleaning is not None:
                record = settings.out / CLEANING_FILE
                dropped = drop_noisy_labels(self.data, self._model, cleaning, record, progress)
            bank = _open_bank(settings, self.data, self._model)
            training_model = TrainingModel(self._model, settings, len(self.data.split.labels), bank)
        self.trainer = Trainer(training_model, settings, strategy)
        self._origin = initial_weights_digest(settings.start)
        file = settings.data.targets
        self._targets = "" if file is None else file_sha256(file)
        self._validation = Validation(self.data, settings, self._model, training_model)
        self._best = -math.inf
        _log_sizes(self.data, dropped, self.trainer)

    def restore(self, last: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            DelgError: it is of a run with other settings or other weights to start from.
        """
        saved = checkpoints.load(last)
        check_same_settings(self._settings, saved.metadata, last)
        if saved.metadata.get("start", self._origin) != self._origin:
            raise DelgError(
                f"start: {self._settings.start} holds other weights than when {last} was begun; "
                "put the old ones back, or give their place"
            )
        if saved.metadata.get("targets", self._targets) != self._targets:
            raise DelgError(
                f"data.targets: {self._settings.data.targets} is another file than when {last} was "
                "begun; put the old one back"
            )
        self.trainer.restore(saved, str(last))
        self._best = saved.metadata["best"] or self._best
        logger.info("continuing after step %d", self.trainer.step)

    def train(self) -> dict[str, float]:
        """Do all steps that are left.

        Returns:
            The validation of the weights after the last one.
        """
        schedule, trainer, data = self._settings.schedule, self.trainer, self.data
        batches = Batches(
            data.train, data.labels, self._settings.augment, schedule, self._settings.seed
        )
        images = schedule.batch * self._settings.augment.views
        count = len(data.train.items)
        every_quarter = range(0, count, -(-count // 4))
        samples = [pixels for _, pixels in readable(data.train, every_quarter)]
        metrics: dict[str, float] = {}
        with (
            Monitor(self._settings.out, self._model, samples) as monitor,
            self._progress("images") as report,
        ):
            if trainer.step == 0:
                monitor.log_validation(0, self._validation.measure())
            first, started = trainer.step, time.monotonic()
            for batch in batches.from_step(trainer.step, schedule.steps):
                losses = self._train_step(batch)
                step, done = trainer.step, trainer.step == schedule.steps
                report((step - first) * images, (schedule.steps - first) * images, 0)
                if step % schedule.log_every == 0 or done:
                    seconds = time.monotonic() - started
                    speed = {
                        "images_per_s": (step - first) * images / seconds,
                        "waiting": batches.waited / seconds,
                    }
                    monitor.log_step(step, {**losses, **speed})
                improved = False
                if step % schedule.validate_every == 0 or done:
                    metrics = self._validate()
                    monitor.log_validation(step, metrics)
                    improved = metrics.get("validation", -math.inf) > self._best
                    self._best = max(self._best, metrics.get("validation", -math.inf))
                if step % schedule.checkpoint_every == 0 or done or improved:
                    self._save_checkpoint(improved)
        # Resumed after its last step, only the model's folder is made again.
        return metrics or self._validate()

    def _train_step(self, batch: Batch) -> dict[str, float]:
        try:
            return self.trainer.train(batch)
        except NotFiniteError as error:
            names = ", ".join(self.data.train.items[number].id for number in batch.photos)
            raise DelgError(
                f"{error}; its photos: {names}; lower optimiser.learning_rate or look at them; "
                "the last checkpoint is from before"
            ) from None

    def _validate(self) -> dict[str, float]:
        with self.trainer.averaged():
            return self._validation.measure()

    def _save_checkpoint(self, improved: bool) -> None:
        folder, step = self._settings.out / CHECKPOINTS, self.trainer.step
        metadata = {
            "settings": self._settings.model_dump(mode="json"),
            "start": self._origin,
            "targets": self._targets,
            "best": None if self._best == -math.inf else self._best,
        }
        snapshot = self.trainer.snapshot(metadata)
        checkpoints.save(folder / LAST, snapshot)
        if improved:
            checkpoints.save(folder / BEST, snapshot)
        keep_every = self._settings.schedule.keep_every
        if keep_every and step % keep_every == 0:
            checkpoints.save(folder / f"step-{step:07d}.h5", snapshot)


def _open_bank(settings: TrainSettings, data: TrainingData, model: Delg) -> TargetBank | None:
    """The teacher's targets, aligned to the model as it starts, if a loss needs them."""
    spec = settings.losses.distillation
    if settings.data.targets is None or not spec.weight + spec.relational_weight:
        return None
    targets = read_targets(settings.data.targets)
    bank = TargetBank(targets, data.train.items)
    logger.info("%d photos have targets, of %s", len(bank.photos), ", ".join(targets.teachers))
    sample = bank.photos[evenly_spaced(len(bank.photos), spec.aligned_photos)]
    photos = list(readable(data.train, sample.tolist()))
    descriptors = Embedder(model, settings.augment.side)(pixels for _, pixels in photos)
    bank.align(np.array([number for number, _ in photos]), descriptors)
    return bank


def check_same_settings(settings: TrainSettings, metadata: dict[str, Any], path: Path) -> None:
    """What decides how a run learns must not change half-way.

    Args:
        settings: of the run as it shall go on.
        metadata: with the settings that a file of the run was made with, under ``settings``.
        path: of that file.

    Raises:
        DelgError: it was made with others.
    """
    # What an earlier version did not know has its default, and what it called otherwise its
    # present name.
    recorded = parse(TrainSettings, metadata["settings"], str(path), recorded=True)
    now, then = (values.model_dump(mode="json", exclude=_FREE) for values in (settings, recorded))
    changed = [key for key in now if now[key] != then.get(key)]
    if changed:
        raise DelgError(f"{path} was made with other settings of {', '.join(changed)}")


def _log_sizes(data: TrainingData, dropped: int, trainer: Trainer) -> None:
    split, variables = data.split, trainer.optimiser.variables
    logger.info(
        "%d photos of %d labels to train on, %d held out, %d more to be found by augmented copies; "
        "%d cannot be read; %d labels dropped as noise",
        len(split.train),
        len(split.labels),
        len(split.held_out),
        len(split.held_out_unlabelled),
        len(data.failures),
        dropped,
    )
    parameters = sum(math.prod(variable.shape) for variable in variables)
    logger.info("%s parameters learn, in %d variables", f"{parameters:,}", len(variables))
