"""Features of many photos in one HDF5 file, to take elsewhere.

One group a photo, named by its id, with ``global_descriptor`` float32 (D,), ``keypoints`` float32
(N, 2) in (x, y), ``descriptors`` float32 (N, d), ``scales`` and ``scores`` float32 (N,), and the
attributes ``width`` and ``height``. The file's attributes name the model and its fingerprint.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import h5py

from delg.errors import DelgError
from delg.values import ImageFeatures


def write_features(
    path: str | Path, features: Iterable[tuple[str, ImageFeatures]], model: str, fingerprint: str
) -> int:
    """Write features as they come; the file appears under its name when it is complete.

    Returns:
        How many photos were written.

    Raises:
        DelgError: the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    count = 0
    try:
        with h5py.File(temporary, "w") as file:
            file.attrs.update(model=model, fingerprint=fingerprint)
            for image_id, one in features:
                group = file.create_group(image_id)
                group.attrs.update(width=one.width, height=one.height)
                group["global_descriptor"] = one.global_descriptor
                group["keypoints"] = one.local.keypoints
                group["descriptors"] = one.local.descriptors
                group["scales"] = one.local.scales
                group["scores"] = one.local.scores
                count += 1
        temporary.replace(path)
    except OSError as error:
        raise DelgError(f"{path}: cannot be written: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return count
