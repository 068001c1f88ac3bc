"""After training: from the last weights to a model's folder that ``load_model`` takes."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np

from delg.files import write_text
from delg.images.pyramid import base_side, level
from delg.inference.backend import Backend
from delg.inference.onnx_runtime import OnnxRuntimeBackend
from delg.network.delg_model import Delg
from delg.network.weights import load_weights, named_variables, read_weights, save_weights
from delg.settings import ExtractionSettings, ModelSettings
from delg.training.dataset import TrainingData
from delg.training.image_cache import PhotoStore, readable
from delg.training.imagenet.initialise import collect, fit_codes, fit_whitening
from delg.training.initial_weights import load_initial_weights
from delg.training.settings import MODEL_FOLDER, TrainSettings
from delg.training.trainer import Trainer
from delg.training.training_model import value_of
from delg.training.validation import Validation
from delg.zoo.model_card import write_card
from delg.zoo.network_file import CALIBRATION_PHOTOS, write_network, write_settings
from delg.zoo.registry import NETWORK_FILE, WEIGHTS_FILE, find_model

logger = logging.getLogger(__name__)

TRAIN_FILE = "train.json"
_PACKAGES = ("tensorflow", "keras", "numpy", "opencv-python-headless", "h5py")
# Photos from which ``min_score`` is set.
_SCORED_PHOTOS = 100


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide how training goes."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def export_trained_model(
    settings: TrainSettings, data: TrainingData, trainer: Trainer, metrics: Mapping[str, float]
) -> Path:
    """Make the model's folder and ``train.json``, which also tells how good its weights are.

    Args:
        settings: of the run.
        data: its photos.
        trainer: has the trained weights.
        metrics: the last validation of the weights as they were trained.

    Returns:
        ``out/model``.
    """
    # The model is used in float32, whatever it was trained in.
    keras.mixed_precision.set_global_policy("float32")
    final = Delg(final_settings(settings))
    with trainer.averaged():
        fresh = set(load_initial_weights(final, settings.start))
        interpolate_weights(
            final,
            trainer.training_model.model,
            settings.finalize.interpolate,
            fresh,
            kept_prefixes(settings),
        )
    refitted = refit_projections(final, settings, data)
    folder = settings.out / MODEL_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(final, folder / WEIGHTS_FILE)
    # Exported and validated is what was written, rounding included.
    load_weights(final, read_weights(folder / WEIGHTS_FILE), str(folder))
    sample = evenly_spaced(len(data.train.items), CALIBRATION_PHOTOS)
    network = write_network(folder, final, (pixels for _, pixels in readable(data.train, sample)))
    spec = with_score_threshold(final.settings, network, settings, data)
    write_settings(folder, spec)
    classifiers = applicable_classifiers(settings, refitted)
    with trainer.averaged():
        validation = Validation(data, settings, final, trainer.training_model, classifiers)
        final_metrics = validation.measure()
    metadata = card_metadata(settings, data, trainer.step, final_metrics, metrics)
    bank = trainer.training_model.bank
    if bank is not None:
        metadata |= {"teachers": bank.teachers, "photos_with_a_target": len(bank.photos)}
    write_card(folder, metadata, card_text(spec, metadata))
    failures = data.all_failures()
    record = {
        "settings": settings.model_dump(mode="json"),
        "versions": versions(),
        "steps": trainer.step,
        "metrics": final_metrics,
        "metrics_last_step": dict(metrics),
        "failures": [vars(failure) for failure in failures],
        "model": str(folder),
    }
    write_text(settings.out / TRAIN_FILE, json.dumps(record, indent=1) + "\n")
    shown = ", ".join(f"{name} {value:.4f}" for name, value in final_metrics.items())
    logger.info("model written: %s%s", folder, f"; as written: {shown}" if shown else "")
    if failures:
        logger.warning("%d photos could not be read; %s names them", len(failures), TRAIN_FILE)
    return folder


def final_settings(settings: TrainSettings) -> ModelSettings:
    """The settings of the finished model, before ``min_score`` is set."""
    spec, finalize = settings.model, settings.finalize
    if finalize.local_head == "start" and settings.start is not None:
        local_head = find_model(settings.start).settings.local_head
        spec = spec.model_copy(update={"local_head": local_head})
    if finalize.whiten_dim is not None:
        head = spec.global_head.model_copy(update={"dim": finalize.whiten_dim})
        spec = spec.model_copy(update={"global_head": head})
    return spec


def kept_prefixes(settings: TrainSettings) -> tuple[str, ...]:
    """Beginnings of the names of the variables that the trained values do not replace."""
    prefixes: tuple[str, ...] = ()
    if settings.finalize.local_head == "start":
        prefixes = ("autoencoder/", "attention/")
    if settings.finalize.whiten_photos:
        prefixes += ("whitening/",)
    return prefixes


def interpolate_weights(
    final: Delg, trained: Delg, share: float, fresh: set[str], kept: tuple[str, ...] = ()
) -> None:
    """Move ``final``, which holds the starting weights, ``share`` of the way to the trained ones.

    Variables that started fresh have nothing to go back to and are taken as trained.

    Args:
        final: changed in place.
        trained: the weights to move to.
        share: 0 stays, 1 is the trained network (WiSE-FT, arXiv 2109.01903).
        fresh: names of the variables that started fresh.
        kept: beginnings of the names of variables to leave as they are.
    """
    values = dict(named_variables(trained))
    for name, variable in named_variables(final):
        if kept and name.startswith(kept):
            continue
        part = 1.0 if name in fresh else share
        start, end = value_of(variable), value_of(values[name])
        variable.assign((1 - part) * start + part * end)


def refit_projections(final: Delg, settings: TrainSettings, data: TrainingData) -> bool:
    """Learn whitening and codes by PCA, as far as the settings say so.

    Returns:
        Whether the global descriptor has changed.
    """
    finalize, losses = settings.finalize, settings.losses
    sample = evenly_spaced(len(data.train.items), finalize.whiten_photos)
    if not sample:
        return False
    logger.info("learning whitening from %d photos", len(sample))
    pooled, cells = collect(final, (pixels for _, pixels in readable(data.train, sample)))
    if pooled is not None:
        fit_whitening(final, pooled, finalize.whiten_shrinkage)
    codes_trained = losses.reconstruction.weight or losses.correspondence.descriptor_weight
    if not codes_trained and finalize.local_head == "trained":
        fit_codes(final, cells)
    return pooled is not None


def evenly_spaced(total: int, count: int) -> list[int]:
    """``count`` numbers spread evenly over ``range(total)``, all of them if there are fewer."""
    return sorted(set(np.linspace(0, total - 1, min(count, total)).astype(int).tolist()))


def applicable_classifiers(settings: TrainSettings, refitted: bool) -> set[str]:
    """Those whose features in the final model are the ones they were trained on.

    Args:
        settings: of the run.
        refitted: the whitening was learnt again.
    """
    if settings.finalize.interpolate != 1:
        return set()
    names = {"descriptor_accuracy"}
    if not refitted:
        names.add("accuracy")
    if settings.finalize.local_head == "trained":
        names.add("attention_accuracy")
    return names


def with_score_threshold(
    spec: ModelSettings, network: bytes, settings: TrainSettings, data: TrainingData
) -> ModelSettings:
    """The settings of the finished model, ``min_score`` set by the share of features to keep.

    Args:
        spec: its settings so far.
        network: its ONNX file.
        settings: of the run.
        data: its photos.
    """
    share = settings.finalize.keep_features
    if not share:
        return spec
    backend = OnnxRuntimeBackend(network, NETWORK_FILE)
    photos = evenly_spaced(len(data.train.items), _SCORED_PHOTOS)
    scores = local_scores(backend, spec.extraction, data.train, photos)
    threshold = round(float(np.quantile(scores, 1 - share)), 4)
    extraction = spec.extraction.model_copy(update={"min_score": threshold})
    return spec.model_copy(update={"extraction": extraction})


def local_scores(
    backend: Backend, spec: ExtractionSettings, store: PhotoStore, numbers: list[int]
) -> np.ndarray:
    """Attention at the cells that extraction would keep, over a few photos; float32 (N,)."""
    scores = []
    for _, photo in readable(store, numbers):
        side = base_side(photo, spec)
        levels = [level(photo, scale, side) for scale in spec.scales]
        by_level = [backend.run(level.pixels, with_global=False).scores for level in levels]
        scores.append(np.sort(np.concatenate(by_level))[::-1][: spec.max_features])
    return np.concatenate(scores)


def card_metadata(
    settings: TrainSettings,
    data: TrainingData,
    steps: int,
    final_metrics: Mapping[str, float],
    last_metrics: Mapping[str, float],
) -> dict[str, Any]:
    """What the card says in numbers.

    Args:
        settings: of the run.
        data: its photos.
        steps: that were done.
        final_metrics: the validation of the weights in the folder.
        last_metrics: that of the weights as the last step left them.
    """
    return {
        "name": settings.model.name,
        "made": date.today().isoformat(),
        "started_from": settings.start or "nothing",
        "photos": len(data.split.train),
        "labels": len(data.split.labels),
        "photos_with_a_label": int((data.labels >= 0).sum()),
        "photo_sources": [
            str(path.name) for path in (*settings.data.folders, *settings.data.unlabelled)
        ],
        "photo_terms": list(settings.photo_terms),
        "teacher_terms": list(settings.teacher_terms),
        "steps": steps,
        "photos_a_step": settings.schedule.batch,
        "losses": {
            name: part["weight"] if "weight" in part else part["descriptor_weight"]
            for name, part in settings.losses.model_dump().items()
        },
        "interpolate": settings.finalize.interpolate,
        "local_head": settings.finalize.local_head,
        "whiten_photos": settings.finalize.whiten_photos,
        "validation": {name: round(value, 4) for name, value in final_metrics.items()},
        "validation_last_step": {name: round(value, 4) for name, value in last_metrics.items()},
        "versions": versions(),
        "seed": settings.seed,
        "keras_backend": keras.backend.backend(),
    }


def card_text(settings: ModelSettings, metadata: Mapping[str, Any]) -> str:
    """The page below the metadata."""
    terms = "\n".join(f"- {line}" for line in metadata["photo_terms"])
    teachers = "\n".join(f"- {line}" for line in metadata["teacher_terms"])
    taught = f"\n## Models it learnt from\n\n{teachers}\n" if teachers else ""
    final, last = metadata["validation"], metadata["validation_last_step"]
    rows = "\n".join(
        f"| {name} | {final.get(name, '–')} | {last.get(name, '–')} |" for name in {**last, **final}
    )
    return f"""
# {settings.name}

{settings.description}

## Photos it learnt from

{metadata["photos"]:,} photos, {metadata["photos_with_a_label"]:,} of them labelled, with \
{metadata["labels"]} labels.

{terms or "The settings of the training run say nothing about where the photos come from."}
{taught}
## Measured on photos held out

| | these weights | at the last step |
|---|---|---|
{rows or "| nothing was held out | | |"}

## Limits

It knows the kinds of things it was shown. Measure it on your own photos before you rely on it.
"""
