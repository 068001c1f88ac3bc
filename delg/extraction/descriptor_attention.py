"""How much each local descriptor counts in a photo's aggregate.

Where words hold many descriptors, those that occur everywhere (sky, foliage, glass, blank paper)
drown the few that tell. A weight for each, learnt from photos of one thing (as in HOW, Tolias,
Jenicek, Chum, ECCV 2020, but from the descriptor alone), weighs them down. A word's sum is scaled
to unit length afterwards, so that only weights within a word compare.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from delg.types import FloatArray

# Weights lie between exp(-_LIMIT) and exp(_LIMIT), whatever the descriptor.
_LIMIT = 10.0


@dataclass(frozen=True, eq=False)
class DescriptorAttention:
    """Weights exp(ReLU(x · A + a) · b) of descriptors x.

    Attributes:
        hidden_kernel: float32 (d, H), A.
        hidden_bias: float32 (H,), a.
        kernel: float32 (H,), b.
    """

    hidden_kernel: FloatArray
    hidden_bias: FloatArray
    kernel: FloatArray

    def weigh(self, descriptors: FloatArray) -> FloatArray:
        """The weights float32 (N,), positive, of descriptors float32 (N, d)."""
        # Not by BLAS, whose threads would take the cores of other photos' extraction.
        hidden = np.einsum("nd,dh->nh", descriptors, self.hidden_kernel) + self.hidden_bias
        logits = np.einsum("nh,h->n", np.maximum(hidden, 0), self.kernel)
        return np.asarray(np.exp(np.clip(logits, -_LIMIT, _LIMIT)), np.float32)

    @classmethod
    def shapes(cls, dim: int, hidden: int) -> dict[str, tuple[int, ...]]:
        """Of its arrays by name, for descriptors of ``dim`` numbers and ``hidden`` channels."""
        return {"hidden_kernel": (dim, hidden), "hidden_bias": (hidden,), "kernel": (hidden,)}

    def arrays(self) -> dict[str, FloatArray]:
        """Its arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
