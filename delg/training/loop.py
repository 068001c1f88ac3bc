"""A training run from settings to a model's folder."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from delg.cli.console import progress, say
from delg.errors import DelgError, UsageError
from delg.network.delg_model import Delg
from delg.settings import parse
from delg.training import checkpoint as checkpoints
from delg.training.batches import Batches
from delg.training.dataset import NO_LABEL, Item, Parts, list_items, split
from delg.training.image_cache import CachedStore, DiskStore, PhotoStore, readable
from delg.training.initial_weights import load_start, start_digest
from delg.training.label_cleaning import believed
from delg.training.settings import TrainSettings
from delg.training.trainer import NotFiniteError, Trainer
from delg.training.training_model import Learner
from delg.training.validation import Embedder, Validation
from delg.types import Failure

CHECKPOINTS, LAST, BEST = "checkpoints", "last.h5", "best.h5"


@dataclass(eq=False)
class Prepared:
    """Photos ready to learn from.

    Attributes:
        parts: by use, without the photos that cannot be read.
        store: pixels of the training photos; validation, held_out and twins are stores likewise.
        labels: int32, class numbers of the training photos, after cleaning.
        failures: what could not be listed or decoded beforehand.
    """

    parts: Parts
    store: PhotoStore
    held_out: PhotoStore
    twins: PhotoStore
    validation: PhotoStore
    labels: np.ndarray
    failures: list[Failure]

    def all_failures(self) -> list[Failure]:
        """With those that turned up while training, of photos decoded afresh each time."""
        stores = (self.store, self.validation, self.held_out, self.twins)
        found = {(one.path, one.reason): one for one in self.failures}
        for store in stores:
            found.update({(one.path, one.reason): one for one in store.failures})
        return list(found.values())


def _open_store(items: list[Item], name: str, settings: TrainSettings) -> PhotoStore:
    data = settings.data
    if data.cache is None or not items:
        return DiskStore(items, data.cache_side, data.trim_borders)
    with progress(f"decoding {name} photos") as report:
        return CachedStore(
            items,
            data.cache_side,
            data.trim_borders,
            data.cache / name,
            settings.loop.threads,
            report,
        )


def prepare(settings: TrainSettings) -> Prepared:
    """List, share out and decode the photos.

    Raises:
        UsageError: nothing to learn from.
    """
    items, failures = list_items(settings.data)
    parts = split(items, settings.data, settings.seed)
    if not parts.train:
        raise UsageError("data: every photo is held out; nothing is left to train on")
    names = ("train", "validation", "held_out", "held_out_unlabelled")
    stores = [_open_store(getattr(parts, name), name, settings) for name in names]
    parts = Parts(*(store.items for store in stores))
    for store in stores:
        failures += store.failures
    numbers = {label: number for number, label in enumerate(parts.labels)}
    labels = [NO_LABEL if item.label is None else numbers[item.label] for item in parts.train]
    store, validation, held_out, twins = stores
    return Prepared(parts, store, held_out, twins, validation, np.array(labels, np.int32), failures)


def clean_labels(ready: Prepared, model: Delg, settings: TrainSettings) -> int:
    """Take away the labels that the starting model does not believe.

    The answer is kept beside the checkpoints: a resumed run must not ask a changed model.

    Returns:
        How many labels were taken.
    """
    spec = settings.data.cleaning
    if spec is None:
        return 0
    kept = settings.out / "believed.npz"
    ids = [item.id for item in ready.parts.train]
    mask = None
    if kept.exists():
        with np.load(kept) as file:
            mask = file["mask"] if file["ids"].tolist() == ids else None
    if mask is None:
        known = np.flatnonzero(ready.labels != NO_LABEL).tolist()
        embed = Embedder(model, spec.side, "global" if model.settings.has_global else "mean")
        descriptors = np.zeros((len(ids), embed.dim), np.float32)
        with progress("asking the labels") as report:
            for done, (number, pixels) in enumerate(readable(ready.store, known), 1):
                descriptors[number] = embed([pixels])[0]
                report(done, len(known), 0)
        mask = believed(descriptors, ready.labels, spec.neighbours, spec.agreement)
        np.savez(kept, mask=mask, ids=np.array(ids))
    dropped = int(((ready.labels != NO_LABEL) & ~mask).sum())
    ready.labels[~mask] = NO_LABEL
    return dropped


def train(settings: TrainSettings, resume: bool = False) -> Path:
    """Run the training that the settings ask for.

    Args:
        settings: everything.
        resume: continue from the last checkpoint in ``settings.out``.

    Returns:
        The folder of the finished model.

    Raises:
        UsageError: settings, photos or checkpoints do not fit what is asked.
        DelgError: a loss is not finite, or files cannot be written.
    """
    last = settings.out / CHECKPOINTS / LAST
    if last.exists() and not resume:
        raise UsageError(
            f"{settings.out} holds an earlier run; continue it with --resume, or choose another out"
        )
    if resume and not last.exists():
        raise UsageError(f"{last}: nothing to resume")
    settings.out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(settings.seed)
    keras.mixed_precision.set_global_policy(settings.loop.precision)
    try:
        return _train(settings, last if resume else None)
    finally:
        keras.mixed_precision.set_global_policy("float32")


def _train(settings: TrainSettings, last: Path | None) -> Path:
    from delg.training.monitor import Monitor

    ready = prepare(settings)
    mirrored = settings.loop.mirrored
    strategy = tf.distribute.MirroredStrategy() if mirrored else tf.distribute.get_strategy()
    with strategy.scope() if mirrored else nullcontext():
        model = Delg(settings.model)
        load_start(model, settings.start)
        dropped = clean_labels(ready, model, settings)
        learner = Learner(model, settings, len(ready.parts.labels))
    trainer = Trainer(learner, settings, strategy)
    _tell(ready, dropped, trainer)
    best, origin = -math.inf, start_digest(settings.start)
    if last is not None:
        saved = checkpoints.load(last)
        same_settings(settings, saved.facts, last)
        if saved.facts.get("start", origin) != origin:
            raise DelgError(
                f"start: {settings.start} holds other weights than when {last} was begun; put the "
                "old ones back, or give their place"
            )
        trainer.restore(saved, str(last))
        best = saved.facts["best"] or best
        say(f"continuing after step {trainer.step}")
    loop = settings.loop
    batches = Batches(ready.store, ready.labels, settings.augment, loop, settings.seed)
    validation = Validation(ready, settings, model, learner)
    metrics: dict[str, float] = {}
    count = len(ready.store.items)
    samples = [pixels for _, pixels in readable(ready.store, range(0, count, -(-count // 4)))]
    with Monitor(settings.out, model, samples) as monitor, progress("images") as report:
        if trainer.step == 0:
            monitor.validated(0, validation.measure())
        images = loop.batch * settings.augment.views
        first, started = trainer.step, time.monotonic()
        for batch in batches.from_step(trainer.step, loop.steps):
            try:
                found = trainer.train(batch)
            except NotFiniteError as error:
                names = ", ".join(ready.store.items[i].id for i in batch.photos)
                raise DelgError(
                    f"{error}; its photos: {names}; lower optimiser.learning_rate or look at them; "
                    "the last checkpoint is from before"
                ) from None
            step, done = trainer.step, trainer.step == loop.steps
            report((step - first) * images, (loop.steps - first) * images, 0)
            if step % loop.log_every == 0 or done:
                spent = time.monotonic() - started
                rate = {"images_per_s": (step - first) * images / spent}
                monitor.trained(step, {**found, **rate, "waiting": batches.waited / spent})
            if step % loop.validate_every == 0 or done:
                with trainer.averaged():
                    metrics = validation.measure()
                    monitor.validated(step, metrics)
                better = metrics.get("validation", -math.inf) > best
                best = max(best, metrics.get("validation", -math.inf))
            else:
                better = False
            if step % loop.checkpoint_every == 0 or done or better:
                _keep(trainer, settings, best, better, step, origin)
        if not metrics:
            # Resumed after its last step, only the model's folder is made again.
            with trainer.averaged():
                metrics = validation.measure()
        from delg.training.finalize import finish

        return finish(settings, ready, trainer, metrics)


def _keep(
    trainer: Trainer, settings: TrainSettings, best: float, better: bool, step: int, origin: str
) -> None:
    folder = settings.out / CHECKPOINTS
    facts = {"settings": settings.model_dump(mode="json"), "start": origin}
    snapshot = trainer.snapshot({**facts, "best": None if best == -math.inf else best})
    checkpoints.save(folder / LAST, snapshot)
    if better:
        checkpoints.save(folder / BEST, snapshot)
    if settings.loop.keep_every and step % settings.loop.keep_every == 0:
        checkpoints.save(folder / f"step-{step:07d}.h5", snapshot)


def same_settings(settings: TrainSettings, facts: dict[str, Any], path: Path) -> None:
    """What a run learns must not change half-way; what it tells, how often, and what is done to
    the weights afterwards, may.

    Args:
        facts: with the settings that a file of the run was made with, under ``settings``.
        path: of that file.

    Raises:
        DelgError: it was made with others.
    """
    # Where the starting weights lie may change as well: their hash is compared.
    free: dict[str, Any] = dict.fromkeys(("out", "start", "after", "photo_terms"), True)
    free["loop"] = {"log_every", "checkpoint_every", "validate_every", "keep_every", "threads"}
    free["model"] = {"name", "description", "extraction"}
    # What an earlier version did not know has its default.
    before = parse(TrainSettings, facts["settings"], str(path))
    now, then = (one.model_dump(mode="json", exclude=free) for one in (settings, before))
    changed = [key for key in now if now[key] != then.get(key)]
    if changed:
        raise DelgError(f"{path} was made with other settings of {', '.join(changed)}")


def _tell(ready: Prepared, dropped: int, trainer: Trainer) -> None:
    parts = ready.parts
    say(
        f"{len(parts.train)} photos of {len(parts.labels)} labels to train on, "
        f"{len(parts.held_out)} held out, {len(parts.held_out_unlabelled)} for twins; "
        f"{len(ready.failures)} cannot be read; {dropped} labels not believed"
    )
    count = sum(math.prod(v.shape) for v in trainer.optimiser.variables)
    say(f"{count:,} numbers learn, in {len(trainer.optimiser.variables)} variables")
