"""The adaptation of an index: a projection of its global descriptors, learnt from labelled photos.

Segments keep the descriptors as the model made them. What is searched, and the query's descriptor,
are projected as they are read, so that an adaptation can be replaced or undone without loss. The
catalog records it in one transaction; the ANN index is rebuilt from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from delg.errors import DelgError
from delg.network.weights import weights_digest
from delg.network.within_class import project
from delg.types import FloatArray
from index.storage.array_text import arrays_from_text, arrays_to_text

# Keys of the catalog.
ADAPTATION, ADAPTATION_DIGEST = "adaptation", "adaptation_digest"
_DIGEST_LENGTH = 16


@dataclass(frozen=True, eq=False)
class Adaptation:
    """A projection of global descriptors: ``(x - mean) @ kernel``, scaled to unit length.

    Attributes:
        mean: float32 (D,).
        kernel: float16 (D, dim).
    """

    mean: FloatArray
    kernel: np.ndarray

    @property
    def dim(self) -> int:
        """Width of what comes out."""
        return int(self.kernel.shape[1])

    @cached_property
    def digest(self) -> str:
        """Of its numbers, 16 hexadecimal digits."""
        return weights_digest(self._arrays())[:_DIGEST_LENGTH]

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"mean": self.mean, "kernel": self.kernel}

    @cached_property
    def _kernel32(self) -> FloatArray:
        return self.kernel.astype(np.float32)

    def apply(self, descriptors: FloatArray) -> FloatArray:
        """Descriptors (N, D), adapted: float32 (N, dim), unit length."""
        return project(descriptors, self.mean, self._kernel32)

    def as_meta(self) -> dict[str, str]:
        """As the catalog of an index records it."""
        return {ADAPTATION: arrays_to_text(self._arrays()), ADAPTATION_DIGEST: self.digest}

    @classmethod
    def from_text(cls, text: str, dim: int, origin: str) -> Adaptation:
        """The inverse of :meth:`as_meta`.

        Args:
            text: the catalog's entry.
            dim: D, width of the stored descriptors.
            origin: names its source in errors.

        Raises:
            DelgError: it is damaged.
        """
        try:
            arrays = arrays_from_text(text)
            mean, kernel = arrays["mean"], arrays["kernel"]
            fits = mean.shape == (dim,) and kernel.ndim == 2 and len(kernel) == dim
            if not fits or not all(np.isfinite(part).all() for part in (mean, kernel)):
                raise ValueError("its parts do not fit each other")
        except (ValueError, KeyError) as error:
            raise DelgError(f"{origin}: the adaptation is damaged ({error}); restore it") from None
        return cls(mean, kernel)
