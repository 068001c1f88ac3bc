"""The codebook of a model: the product codes of its local descriptors, as a file and as text.

It is learnt once, on photos like those that the model was trained on, and lies beside the model's
weights. An index takes it over when it is created, so that all indexes of a model encode alike,
whatever was added first. The file is HDF5 with the two datasets of
:class:`index.storage.product_quantizer.ProductQuantizer`.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from delg.errors import DelgError, ModelError
from delg.files import atomic_write
from delg.network.weights import read_weights, weights_digest
from index.storage.array_text import arrays_from_text, arrays_to_text
from index.storage.product_quantizer import CENTROIDS, ProductQuantizer

_PARTS = {"rotation", "centroids"}


def read_codebook(path: Path, local_dim: int) -> ProductQuantizer:
    """Read a codebook.

    Args:
        path: of the file.
        local_dim: d, width of the descriptors that it has to fit.

    Raises:
        ModelError: it is missing, damaged, or for descriptors of another width.
    """
    codebook = _check(read_weights(path), str(path))
    width = len(codebook.rotation)
    if width != local_dim:
        raise ModelError(
            f"{path}: a codebook for local descriptors of {width} numbers; the model's have "
            f"{local_dim}"
        )
    return codebook


def write_codebook(path: Path, codebook: ProductQuantizer) -> None:
    """Write a codebook.

    Raises:
        DelgError: it cannot be written; a file that was there before is unchanged.
    """
    with atomic_write(path) as temporary, h5py.File(temporary, "w", track_order=True) as file:
        for name, values in _arrays(codebook).items():
            file.create_dataset(name, data=values)


def codebook_digest(codebook: ProductQuantizer) -> str:
    """Of its numbers, 16 hexadecimal digits."""
    return weights_digest(_arrays(codebook))[:16]


def codebook_to_text(codebook: ProductQuantizer) -> str:
    """As the catalog of an index records it."""
    return arrays_to_text(_arrays(codebook))


def codebook_from_text(text: str, origin: str) -> ProductQuantizer:
    """The inverse of :func:`codebook_to_text`.

    Args:
        origin: names its source in errors.

    Raises:
        DelgError: it is damaged.
    """
    try:
        arrays = arrays_from_text(text)
    except ValueError as error:
        raise DelgError(f"{origin}: the codebook is damaged ({error})") from None
    return _check(arrays, origin)


def _arrays(codebook: ProductQuantizer) -> dict[str, np.ndarray]:
    return {"rotation": codebook.rotation, "centroids": codebook.centroids}


def _check(arrays: dict[str, np.ndarray], origin: str) -> ProductQuantizer:
    if arrays.keys() != _PARTS:
        raise ModelError(f"{origin}: not a codebook, which holds rotation and centroids alone")
    rotation, centroids = arrays["rotation"], arrays["centroids"]
    is_codebook = (
        rotation.dtype == centroids.dtype == np.float16
        and rotation.ndim == 2
        and centroids.ndim == 3
        and centroids.shape[1] == CENTROIDS
        and centroids.shape[0] * centroids.shape[2] == rotation.shape[1] > 0
        and bool(np.isfinite(rotation).all() and np.isfinite(centroids).all())
    )
    if not is_codebook:
        raise ModelError(f"{origin}: the parts of the codebook do not fit each other")
    return ProductQuantizer(rotation, centroids)
