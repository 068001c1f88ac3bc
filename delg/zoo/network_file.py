"""``network.onnx`` beside the weights of a model, in the precision that its settings name."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from delg.errors import DelgError, ModelError, UsageError
from delg.files import write_bytes, write_text
from delg.images.decode import ImageError, decode
from delg.images.pyramid import base_side, level
from delg.images.scan import scan
from delg.inference.export_onnx import export_network
from delg.inference.quantize import quantize_network
from delg.inference.select import network_digest
from delg.network.delg_model import Delg
from delg.network.weights import load_weights, read_weights, weights_digest
from delg.paths import exists
from delg.remote_path import Location
from delg.settings import ModelSettings
from delg.zoo.registry import (
    NETWORK_FILE,
    SETTINGS_FILE,
    WEIGHTS_FILE,
    ModelFiles,
)

Pixels = NDArray[np.uint8]
# More photos only widen the ranges by their outliers.
CALIBRATION_PHOTOS = 36


def write_network(folder: Path, model: Delg, photos: Iterable[Pixels]) -> bytes:
    """Write a model's network.

    Args:
        folder: holds the model's ``weights.h5`` already.
        model: with those weights, as they were stored.
        photos: uint8 (h, w, 3), RGB, to calibrate a quantised network on; see
            :data:`CALIBRATION_PHOTOS`.

    Returns:
        The bytes of the file.

    Raises:
        ModelError: it differs from Keras, or cannot be quantised.
        DelgError: it cannot be written.
    """
    weights = read_weights(folder / WEIGHTS_FILE)
    digest = network_digest(model.settings, weights_digest(weights))
    if model.settings.precision == "int8":
        network = quantize_network(model, _levels(photos, model.settings), digest)
    else:
        network = export_network(model, digest)
    write_bytes(folder / NETWORK_FILE, network)
    return network


def quantize_model(files: ModelFiles, sources: list[Path], out: Path) -> None:
    """Make a quantised copy of a model: a folder that ``load_model`` takes.

    Args:
        files: of a model with weights here.
        sources: photos, or folders of them, to calibrate on: like those that it will see, but not
            those that it is measured on.
        out: folder to make; it must not exist.

    Raises:
        UsageError: the place is taken, or there are no photos.
        ModelError: there are no weights, or the model cannot be quantised.
        DelgError: it cannot be written.
    """
    if exists(out):
        raise UsageError(f"{out}: exists; choose another place")
    if files.settings.export is not None:
        raise ModelError(f"{files.settings.name} is a SavedModel and cannot be quantised")
    if not exists(files.weights):
        raise ModelError(files.missing())
    photos = [photo.path for photo in scan(sources).photos]
    if not photos:
        raise UsageError("there are no photos to calibrate on")
    settings = files.settings.model_copy(update={"precision": "int8"})
    if settings.tower is not None:
        raise ModelError(f"{settings.name} is two networks; quantise them one by one")
    model = Delg(settings)
    load_weights(model, read_weights(files.weights), str(files.weights))
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.absolute().parent) as temporary:
            folder = Path(temporary) / out.name
            folder.mkdir()
            shutil.copyfile(files.weights, folder / WEIGHTS_FILE)
            write_network(folder, model, _decode_some(photos))
            write_settings(folder, settings)
            for name, path in files.learnt_for_indexes.items():
                shutil.copyfile(path, folder / name)
            if settings.aggregate is not None:
                shutil.copyfile(files.aggregate, folder / files.aggregate.name)
            folder.rename(out)
    except OSError as error:
        raise DelgError(f"{out}: cannot be written: {error.strerror or error}") from None


def write_settings(folder: Path, settings: ModelSettings) -> None:
    """Only what differs from the defaults, as in the shipped models."""
    values = settings.model_dump(mode="json", exclude_defaults=True)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None)
    write_text(folder / SETTINGS_FILE, text)


def _levels(photos: Iterable[Pixels], settings: ModelSettings) -> Iterator[Pixels]:
    spec = settings.extraction
    scales = sorted({*spec.scales, *(spec.global_scales if settings.has_global else ())})
    for photo in photos:
        side = base_side(photo, spec)
        yield from (level(photo, scale, side).pixels for scale in scales)


def _decode_some(photos: list[Location]) -> Iterator[Pixels]:
    """Photos spread evenly over all, except those that cannot be read."""
    chosen = np.linspace(0, len(photos) - 1, min(CALIBRATION_PHOTOS, len(photos))).astype(int)
    for number in chosen:
        try:
            yield decode(photos[number])
        except ImageError:
            continue
