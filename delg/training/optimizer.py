"""Learning rate and optimisers: one for the backbone and one for the heads, clipped as one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from delg.training.settings import OptimiserSettings
from delg.training.training_model import Learner


def rate_at(step: int, steps: int, settings: OptimiserSettings) -> float:
    """The heads' learning rate of that step: linear warm-up, then decay to 0 at ``steps``."""
    warm = settings.warmup_steps
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    factor = {
        "linear": 1.0 - done,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
        "constant": 1.0,
    }[settings.decay]
    return settings.learning_rate * max(factor, 0.0)


class Optimiser:
    """Applies gradients to the variables that learn.

    Attributes:
        variables: what learns, backbone first.
    """

    def __init__(self, learner: Learner, settings: OptimiserSettings) -> None:
        self._settings = settings
        self._groups = []
        self.variables: list[keras.Variable] = []
        for named, factor in zip(learner.trainable(), (settings.backbone_factor, 1.0), strict=True):
            variables = [variable for _, variable in named]
            optimiser = _make(settings)
            # Biases, norms and class centres have no weights that decay would keep simple.
            exempt = [v for name, v in named if len(v.shape) < 2 or name == "arcface/centres"]
            if settings.weight_decay and exempt:
                optimiser.exclude_from_weight_decay(var_list=exempt)
            if variables:
                optimiser.build(variables)
                self._groups.append((optimiser, variables, factor))
                self.variables += variables

    def set_rate(self, rate: float) -> None:
        """Set the heads' rate; the backbone's follows."""
        for optimiser, _, factor in self._groups:
            optimiser.learning_rate = rate * factor

    def apply(self, gradients: Sequence[tf.Tensor], replicas: int = 1) -> tf.Tensor:
        """Clip by the norm of all gradients together, and apply.

        Args:
            gradients: of all replicas together, the same on each.
            replicas: how many there are.

        Returns:
            The norm before clipping.
        """
        norm = tf.linalg.global_norm(gradients)
        if self._settings.clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self._settings.clip_norm, norm)
        # Keras adds up what the replicas hand it, as if each knew only its own share.
        rest = [gradient / replicas for gradient in gradients]
        for optimiser, variables, _ in self._groups:
            optimiser.apply(rest[: len(variables)], variables)
            rest = rest[len(variables) :]
        return norm

    def state(self) -> list[keras.Variable]:
        """Everything the optimisers remember, in a fixed order."""
        return [variable for optimiser, _, _ in self._groups for variable in optimiser.variables]


def _make(settings: OptimiserSettings) -> keras.optimizers.Optimizer:
    if settings.kind == "adamw":
        return keras.optimizers.AdamW(settings.learning_rate, weight_decay=settings.weight_decay)
    return keras.optimizers.SGD(
        settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay or None,
    )
