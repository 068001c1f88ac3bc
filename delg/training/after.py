"""After training: from the last weights to a model's folder that ``load_model`` takes."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import yaml

from delg.card import write_card
from delg.console import say
from delg.fit_lite import collect, fit_codes, fit_whitening
from delg.model import Delg
from delg.network import TensorFlowNetwork
from delg.pyramid import level
from delg.registry import SETTINGS_FILE, WEIGHTS_FILE, find_model
from delg.settings import ModelSettings
from delg.training.settings import TrainSettings
from delg.training.start import load_start
from delg.training.store import PhotoStore
from delg.training.trainer import value_of
from delg.weights import named_variables, save_weights

if TYPE_CHECKING:
    from delg.training.run import Prepared
    from delg.training.trainer import Trainer

MODEL_FOLDER, TRAIN_FILE = "model", "train.json"
_PACKAGES = ("tensorflow", "keras", "numpy", "opencv-python-headless", "h5py")


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide how training goes."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def finish(
    settings: TrainSettings, ready: Prepared, trainer: Trainer, metrics: Mapping[str, float]
) -> Path:
    """Make the model's folder and ``train.json``.

    Args:
        metrics: the last validation.

    Returns:
        ``out/model``.
    """
    after, model = settings.after, trainer.learner.model
    spec = settings.model
    if after.local_head == "start" and settings.start is not None:
        spec = spec.model_copy(
            update={"local_head": find_model(settings.start).settings.local_head}
        )
    with trainer.averaged():
        final = Delg(spec)
        fresh = set(load_start(final, settings.start))
        blend(final, model, after.interpolate, fresh, after.local_head == "start")
    sample = spread(len(ready.store.items), after.whiten_photos)
    if sample:
        say(f"learning whitening from {len(sample)} photos")
        pooled, cells = collect(final, (ready.store[i] for i in sample))
        fit_whitening(final, pooled, after.whiten_shrinkage)
        losses = settings.losses
        learnt = losses.reconstruction.weight or losses.warps.descriptor_weight
        if not learnt and after.local_head == "trained":
            fit_codes(final, cells)
    if after.keep_features:
        found = local_scores(final, ready.store, spread(len(ready.store.items), 100))
        threshold = round(float(np.quantile(found, 1 - after.keep_features)), 4)
        extraction = spec.extraction.model_copy(update={"min_score": threshold})
        spec = spec.model_copy(update={"extraction": extraction})
    folder = settings.out / MODEL_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_settings(folder, spec)
    save_weights(final, folder / WEIGHTS_FILE)
    facts = card_facts(settings, ready, trainer.step, metrics)
    write_card(folder, facts, card_text(spec, facts))
    record = {
        "settings": settings.model_dump(mode="json"),
        "versions": versions(),
        "steps": trainer.step,
        "metrics": dict(metrics),
        "failures": [vars(failure) for failure in ready.failures],
        "model": str(folder),
    }
    (settings.out / TRAIN_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    say(f"model written: {folder}")
    return folder


def spread(total: int, count: int) -> list[int]:
    """``count`` numbers spread evenly over ``range(total)``, all of them if there are fewer."""
    return sorted(set(np.linspace(0, total - 1, min(count, total)).astype(int).tolist()))


def blend(final: Delg, trained: Delg, share: float, fresh: set[str], keep_local: bool) -> None:
    """Move ``final``, which holds the starting weights, ``share`` of the way to the trained ones.

    Variables that started fresh have nothing to go back to and are taken as trained.

    Args:
        keep_local: leave the local head as it started.
    """
    values = dict(named_variables(trained))
    for name, variable in named_variables(final):
        if keep_local and name.startswith(("autoencoder/", "attention/")):
            continue
        part = 1.0 if name in fresh else share
        start, end = value_of(variable), value_of(values[name])
        variable.assign((1 - part) * start + part * end)


def local_scores(model: Delg, store: PhotoStore, numbers: list[int]) -> np.ndarray:
    """Attention at the cells that extraction would keep, over a few photos; float32 (N,)."""
    spec, network = model.settings.extraction, TensorFlowNetwork(model)
    scores = []
    for number in numbers:
        photo = store[number]
        side = spec.longest_side if spec.enlarge else min(spec.longest_side, max(photo.shape[:2]))
        found = [network.run(level(photo, s, side).pixels, False).scores for s in spec.scales]
        scores.append(np.sort(np.concatenate(found))[::-1][: spec.max_features])
    return np.concatenate(scores)


def write_settings(folder: Path, settings: ModelSettings) -> None:
    """Only what differs from the defaults, as in the shipped models."""
    values = settings.model_dump(mode="json", exclude_defaults=True)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None)
    (folder / SETTINGS_FILE).write_text(text, encoding="utf-8")


def card_facts(
    settings: TrainSettings, ready: Prepared, steps: int, metrics: Mapping[str, float]
) -> dict[str, Any]:
    """What the card says in numbers."""
    items = ready.parts.train
    known = int((ready.labels >= 0).sum())
    return {
        "name": settings.model.name,
        "made": date.today().isoformat(),
        "started_from": settings.start or "nothing",
        "photos": len(items),
        "labels": len(ready.parts.labels),
        "photos_with_a_label": known,
        "photo_sources": [
            str(path.name) for path in (*settings.data.folders, *settings.data.unlabelled)
        ],
        "photo_terms": list(settings.photo_terms),
        "steps": steps,
        "photos_a_step": settings.loop.batch,
        "losses": {
            name: part["weight"] if "weight" in part else part["descriptor_weight"]
            for name, part in settings.losses.model_dump().items()
        },
        "interpolate": settings.after.interpolate,
        "local_head": settings.after.local_head,
        "validation": {name: round(value, 4) for name, value in metrics.items()},
        "versions": versions(),
        "seed": settings.seed,
        "keras_backend": keras.backend.backend(),
    }


def card_text(settings: ModelSettings, facts: Mapping[str, Any]) -> str:
    """The page below the facts."""
    terms = "\n".join(f"- {line}" for line in facts["photo_terms"])
    measured = "\n".join(f"| {k} | {v} |" for k, v in facts["validation"].items())
    return f"""
# {settings.name}

{settings.description}

## Photos it learnt from

{facts["photos"]:,} photos, {facts["photos_with_a_label"]:,} of them labelled, with \
{facts["labels"]} labels.

{terms or "The settings of the training run say nothing about where the photos come from."}

## Measured while training

| on photos held out | |
|---|---|
{measured or "| nothing was held out | |"}

## Limits

It knows the kinds of things it was shown. Measure it on your own photos before you rely on it.
"""
