"""Noisy labels: those that a photo's nearest neighbours do not share are dropped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from delg.network.delg_model import Delg
from delg.paths import exists
from delg.training.dataset import Progress, TrainingData, no_progress
from delg.training.image_cache import readable
from delg.training.items import NO_LABEL
from delg.training.settings import CleaningSettings
from delg.training.validation import Embedder
from delg.types import FloatArray


def drop_noisy_labels(
    data: TrainingData,
    model: Delg,
    settings: CleaningSettings,
    record: Path,
    progress: Progress = no_progress,
) -> int:
    """Take the labels away that the nearest neighbours do not share.

    Args:
        data: its labels are changed.
        model: with the weights that training starts from.
        settings: what is asked of a label.
        record: file that keeps the outcome: a resumed run must not ask a changed model.
        progress: of embedding the photos.

    Returns:
        How many labels were taken away.
    """
    ids = [item.id for item in data.split.train]
    mask = _recorded_mask(record, ids)
    if mask is None:
        labelled = np.flatnonzero(data.labels != NO_LABEL).tolist()
        embed = Embedder(model, settings.side, "global" if model.settings.has_global else "mean")
        descriptors = np.zeros((len(ids), embed.dim), np.float32)
        with progress("checking labels") as report:
            for done, (number, pixels) in enumerate(readable(data.train, labelled), 1):
                descriptors[number] = embed([pixels])[0]
                report(done, len(labelled), 0)
        mask = knn_label_agreement(
            descriptors, data.labels, settings.neighbours, settings.agreement
        )
        np.savez(record, mask=mask, ids=np.array(ids))
    dropped = int(((data.labels != NO_LABEL) & ~mask).sum())
    data.labels[~mask] = NO_LABEL
    return dropped


def _recorded_mask(record: Path, ids: list[str]) -> NDArray[np.bool_] | None:
    if not exists(record):
        return None
    with np.load(record) as file:
        return file["mask"] if file["ids"].tolist() == ids else None


def knn_label_agreement(
    descriptors: FloatArray, labels: NDArray[np.int32], neighbours: int, agreement: float
) -> NDArray[np.bool_]:
    """Which labels are shared by enough of the photo's nearest neighbours.

    A class smaller than the neighbourhood cannot fill it, so the share is of what it could give;
    the label of a class of one photo is kept.

    Args:
        descriptors: float32 (N, D), unit length.
        labels: int32 (N,); NO_LABEL rows are no neighbours and come out False.
        neighbours: how many nearest photos count.
        agreement: share of them that must carry the label.

    Returns:
        bool (N,).
    """
    labelled = np.flatnonzero(labels != NO_LABEL)
    result = np.zeros(len(labels), bool)
    sizes = {int(label): int((labels == label).sum()) for label in np.unique(labels[labelled])}
    # Blocks of rows keep the similarities of a large collection out of memory.
    for start in range(0, len(labelled), 1024):
        rows = labelled[start : start + 1024]
        similarity = descriptors[rows] @ descriptors[labelled].T
        similarity[np.arange(len(rows)), np.arange(start, start + len(rows))] = -np.inf
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :neighbours]
        same = (labels[labelled][nearest] == labels[rows, None]).sum(axis=1)
        possible = np.array([min(neighbours, sizes[int(label)] - 1) for label in labels[rows]])
        result[rows] = same >= agreement * possible
    return result
