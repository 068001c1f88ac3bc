"""The inverted file of visual words on disk: derived from the segments, so that a new process need
not sort their words again before its first query.

``words.h5`` holds the arrays of each block under the block's number, the digest of the vocabulary,
the generation of the catalog that it shows, and a CRC-32 of the arrays. What is missing, damaged or
of another vocabulary counts as not there; what is behind is brought up to date in memory.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable
from pathlib import Path

import h5py
import numpy as np

from delg.files import atomic_write
from index.storage.inverted_file import Block, InvertedFile
from index.storage.vocabulary import Vocabulary

FILE = "words.h5"
_FORMAT = 1


def save_inverted_file(folder: Path, inverted: InvertedFile, generation: int) -> None:
    """Write it, marked as showing that generation of the catalog.

    Args:
        folder: of the image index.

    Raises:
        DelgError: it cannot be written.
    """
    # HDF5 writes into memory first: on a full disk it can take the whole process with it.
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        blocks = [_arrays(block) for block in inverted.blocks]
        for number, arrays in enumerate(blocks):
            for name, array in arrays.items():
                file[f"{number:06d}/{name}"] = array
        file.attrs.update(
            format=_FORMAT,
            vocabulary=inverted.vocabulary.digest,
            generation=generation,
            checksum=_checksum(array for arrays in blocks for array in arrays.values()),
        )
    with atomic_write(folder / FILE) as temporary:
        temporary.write_bytes(data.getbuffer())


def load_inverted_file(
    folder: Path, vocabulary: Vocabulary, alpha: float, tau: float
) -> tuple[InvertedFile, int] | None:
    """The stored inverted file and the generation it shows; None if it is missing, damaged or of
    another vocabulary.

    Args:
        folder: of the image index.
        vocabulary, alpha, tau: see :class:`index.storage.inverted_file.InvertedFile`.
    """
    try:
        with h5py.File(folder / FILE, "r") as file:
            marks = file.attrs
            if marks["format"] != _FORMAT or marks["vocabulary"] != vocabulary.digest:
                return None
            blocks = [_read_block(file[name]) for name in sorted(file)]
            generation, checksum = int(marks["generation"]), int(marks["checksum"])
    except Exception:  # What HDF5 raises depends on which bytes are damaged.
        return None
    arrays = (array for block in blocks for array in _arrays(block).values())
    if checksum != _checksum(arrays) or not all(block.fits(vocabulary) for block in blocks):
        return None
    return InvertedFile(vocabulary, alpha, tau, blocks), generation


def _arrays(block: Block) -> dict[str, np.ndarray]:
    return {name: getattr(block, name) for name in Block.ARRAYS}


def _read_block(group: h5py.Group) -> Block:
    return Block(*(group[name][()] for name in Block.ARRAYS))


def _checksum(arrays: Iterable[np.ndarray]) -> int:
    """CRC-32 of the bytes of arrays, one after the other."""
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data, checksum)
    return checksum
