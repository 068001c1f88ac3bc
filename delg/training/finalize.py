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

from delg.cli.console import say
from delg.files import write_text
from delg.images.pyramid import level
from delg.inference.tensorflow_network import TensorFlowNetwork
from delg.network.delg_model import Delg
from delg.network.weights import load_weights, named_variables, read_weights, save_weights
from delg.settings import ModelSettings
from delg.training.image_cache import PhotoStore, readable
from delg.training.imagenet.initialise import collect, fit_codes, fit_whitening
from delg.training.initial_weights import load_start
from delg.training.settings import MODEL_FOLDER, TrainSettings
from delg.training.trainer import value_of
from delg.training.validation import Validation
from delg.zoo.model_card import write_card
from delg.zoo.registry import SETTINGS_FILE, WEIGHTS_FILE, find_model

if TYPE_CHECKING:
    from delg.training.loop import Prepared
    from delg.training.trainer import Trainer

TRAIN_FILE = "train.json"
_PACKAGES = ("tensorflow", "keras", "numpy", "opencv-python-headless", "h5py")


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide how training goes."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def finish(
    settings: TrainSettings, ready: Prepared, trainer: Trainer, metrics: Mapping[str, float]
) -> Path:
    """Make the model's folder and ``train.json``, from which also how good its weights are.

    Args:
        metrics: the last validation of the weights as they were trained.

    Returns:
        ``out/model``.
    """
    # The model is used in float32, whatever it was trained in.
    keras.mixed_precision.set_global_policy("float32")
    after, learner = settings.after, trainer.learner
    spec = settings.model
    if after.local_head == "start" and settings.start is not None:
        spec = spec.model_copy(
            update={"local_head": find_model(settings.start).settings.local_head}
        )
    if after.whiten_dim is not None:
        head = spec.global_head.model_copy(update={"dim": after.whiten_dim})
        spec = spec.model_copy(update={"global_head": head})
    left: tuple[str, ...] = ()
    if after.local_head == "start":
        left = ("autoencoder/", "attention/")
    if after.whiten_photos:
        left += ("whitening/",)
    with trainer.averaged():
        final = Delg(spec)
        fresh = set(load_start(final, settings.start))
        blend(final, learner.model, after.interpolate, fresh, left)
    fitted = fit_again(final, settings, ready)
    if after.keep_features:
        found = local_scores(final, ready.store, spread(len(ready.store.items), 100))
        threshold = round(float(np.quantile(found, 1 - after.keep_features)), 4)
        extraction = spec.extraction.model_copy(update={"min_score": threshold})
        spec = spec.model_copy(update={"extraction": extraction})
    folder = settings.out / MODEL_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_settings(folder, spec)
    save_weights(final, folder / WEIGHTS_FILE)
    # Measured is what was written, rounding and all.
    load_weights(final, read_weights(folder / WEIGHTS_FILE), str(folder))
    asked = classifiers_that_fit(settings, fitted)
    with trainer.averaged():
        measured = Validation(ready, settings, final, learner, asked).measure()
    facts = card_facts(settings, ready, trainer.step, measured, metrics)
    write_card(folder, facts, card_text(spec, facts))
    failures = ready.all_failures()
    record = {
        "settings": settings.model_dump(mode="json"),
        "versions": versions(),
        "steps": trainer.step,
        "metrics": measured,
        "metrics_last_step": dict(metrics),
        "failures": [vars(failure) for failure in failures],
        "model": str(folder),
    }
    write_text(settings.out / TRAIN_FILE, json.dumps(record, indent=1) + "\n")
    shown = ", ".join(f"{name} {value:.4f}" for name, value in measured.items())
    say(f"model written: {folder}" + (f"; as written: {shown}" if shown else ""))
    if failures:
        say(f"{len(failures)} photos could not be read; {TRAIN_FILE} names them")
    return folder


def fit_again(final: Delg, settings: TrainSettings, ready: Prepared) -> bool:
    """Learn whitening and codes by PCA, as far as the settings ask for it.

    Returns:
        Whether the global descriptor is another one now.
    """
    after, losses = settings.after, settings.losses
    sample = spread(len(ready.store.items), after.whiten_photos)
    if not sample:
        return False
    say(f"learning whitening from {len(sample)} photos")
    pooled, cells = collect(final, (pixels for _, pixels in readable(ready.store, sample)))
    if pooled is not None:
        fit_whitening(final, pooled, after.whiten_shrinkage)
    learnt = losses.reconstruction.weight or losses.warps.descriptor_weight
    if not learnt and after.local_head == "trained":
        fit_codes(final, cells)
    return pooled is not None


def classifiers_that_fit(settings: TrainSettings, fitted: bool) -> set[str]:
    """Those whose features in the final model are the ones they were trained on.

    Args:
        fitted: the whitening was learnt again.
    """
    after, fit = settings.after, set()
    if after.interpolate == 1:
        fit = {"descriptor_accuracy"}
        if not fitted:
            fit.add("accuracy")
        if after.local_head == "trained":
            fit.add("attention_accuracy")
    return fit


def spread(total: int, count: int) -> list[int]:
    """``count`` numbers spread evenly over ``range(total)``, all of them if there are fewer."""
    return sorted(set(np.linspace(0, total - 1, min(count, total)).astype(int).tolist()))


def blend(
    final: Delg, trained: Delg, share: float, fresh: set[str], left: tuple[str, ...] = ()
) -> None:
    """Move ``final``, which holds the starting weights, ``share`` of the way to the trained ones.

    Variables that started fresh have nothing to go back to and are taken as trained.

    Args:
        fresh: names of those.
        left: beginnings of the names of variables to leave as they are.
    """
    values = dict(named_variables(trained))
    for name, variable in named_variables(final):
        if left and name.startswith(left):
            continue
        part = 1.0 if name in fresh else share
        start, end = value_of(variable), value_of(values[name])
        variable.assign((1 - part) * start + part * end)


def local_scores(model: Delg, store: PhotoStore, numbers: list[int]) -> np.ndarray:
    """Attention at the cells that extraction would keep, over a few photos; float32 (N,)."""
    spec, network = model.settings.extraction, TensorFlowNetwork(model)
    scores = []
    for _, photo in readable(store, numbers):
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
    settings: TrainSettings,
    ready: Prepared,
    steps: int,
    measured: Mapping[str, float],
    last: Mapping[str, float],
) -> dict[str, Any]:
    """What the card says in numbers.

    Args:
        measured: the validation of the weights in the folder.
        last: that of the weights as the last step left them.
    """
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
        "whiten_photos": settings.after.whiten_photos,
        "validation": {name: round(value, 4) for name, value in measured.items()},
        "validation_last_step": {name: round(value, 4) for name, value in last.items()},
        "versions": versions(),
        "seed": settings.seed,
        "keras_backend": keras.backend.backend(),
    }


def card_text(settings: ModelSettings, facts: Mapping[str, Any]) -> str:
    """The page below the facts."""
    terms = "\n".join(f"- {line}" for line in facts["photo_terms"])
    final, last = facts["validation"], facts["validation_last_step"]
    measured = "\n".join(
        f"| {name} | {final.get(name, '–')} | {last.get(name, '–')} |" for name in {**last, **final}
    )
    return f"""
# {settings.name}

{settings.description}

## Photos it learnt from

{facts["photos"]:,} photos, {facts["photos_with_a_label"]:,} of them labelled, with \
{facts["labels"]} labels.

{terms or "The settings of the training run say nothing about where the photos come from."}

## Measured on photos held out

| | these weights | at the last step |
|---|---|---|
{measured or "| nothing was held out | | |"}

## Limits

It knows the kinds of things it was shown. Measure it on your own photos before you rely on it.
"""
