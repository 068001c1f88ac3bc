"""The structure of EfficientNet-Lite 0/1/2 in numbers.

Structure and scaling rules: Tan & Le, EfficientNet (arXiv 1905.11946), and the "Lite" variant
published with it (stem, head, first and last stage are not scaled; ReLU6; no squeeze-excite).
"""

from __future__ import annotations

import math

# (kernel, stride, expansion, channels, repeats) of the unscaled network.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
# Variant -> (width multiplier, depth multiplier).
SCALING = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
# The stage whose output is the last map of stride 16; the local head reads it.
MID_STAGE = 4
BN_EPSILON = 1e-3
# Cells of the mid-level map. Padding after the last pixel only puts the centre of the theoretical
# receptive field at 15, but matches of photos with mirrored, rotated and scaled copies agree best
# on the middle of the cell: with 15 each is off by a cell, with 7.5 there is no bias.
STRIDE, OFFSET = 16, 7.5


def scaled_channels(channels: int, width: float) -> int:
    """Channels times ``width``, rounded to a multiple of 8 but never down by more than 10 %."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * scaled else rounded + 8


def stages(variant: int) -> list[list[tuple[int, int, int, int, int]]]:
    """Blocks by stage, each (kernel, stride, expansion, input channels, output channels)."""
    width, depth = SCALING[variant]
    inputs = STEM_CHANNELS
    result = []
    for number, (kernel, stride, expansion, channels, repeats) in enumerate(STAGES):
        outputs = scaled_channels(channels, width)
        unscaled = number in (0, len(STAGES) - 1)
        blocks = []
        for repeat in range(repeats if unscaled else math.ceil(repeats * depth)):
            blocks.append((kernel, stride if repeat == 0 else 1, expansion, inputs, outputs))
            inputs = outputs
        result.append(blocks)
    return result
