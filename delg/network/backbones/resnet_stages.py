"""The structure of ResNet-50/101 v1 (He et al., arXiv 1512.03385) in numbers."""

from __future__ import annotations

# Blocks of conv2_x … conv5_x.
DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
BN_EPSILON = 1.001e-5
# Symmetric padding, and stride-2 convolutions of width 1, keep cell 0 centred on pixel 0.
OFFSET = 0.0


def stride(block3_strides: bool) -> int:
    """Pixels between cells of the mid-level map, of the plain network or of DELG's variant."""
    return 32 if block3_strides else 16
