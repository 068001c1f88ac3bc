"""Learning rate and optimisers: one for the backbone and one for the heads, clipped as one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import keras
import tensorflow as tf

from delg.training.settings import OptimiserSettings
from delg.training.training_model import TrainingModel, value_of


def rate_at(step: int, steps: int, settings: OptimiserSettings) -> float:
    """The heads' learning rate at a step: linear warm-up, then decay to 0 at ``steps``."""
    warmup = settings.warmup_steps
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    factor = {
        "linear": 1.0 - done,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
        "constant": 1.0,
    }[settings.decay]
    return settings.learning_rate * max(factor, 0.0)


class Optimiser:
    """Applies gradients to the variables that learn, and keeps their moving average.

    Attributes:
        variables: what learns, backbone first.
    """

    def __init__(self, training_model: TrainingModel, settings: OptimiserSettings) -> None:
        self._settings = settings
        self._groups = []
        self.variables: list[keras.Variable] = []
        factors = (settings.backbone_factor, 1.0)
        for named, factor in zip(training_model.trainable(), factors, strict=True):
            variables = [variable for _, variable in named]
            optimiser = _make_keras_optimiser(settings)
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
        # Keras' global_clipnorm would clip each of the two optimisers by its own norm.
        norm = tf.linalg.global_norm(gradients)
        if self._settings.clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self._settings.clip_norm, norm)
        # Keras adds up what the replicas hand it, as if each knew only its own share.
        rest = [gradient / replicas for gradient in gradients]
        for optimiser, variables, _ in self._groups:
            optimiser.apply(rest[: len(variables)], variables)
            rest = rest[len(variables) :]
        return norm

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the variables have their moving averages; without averages nothing changes."""
        weights = [value_of(variable) for variable in self.variables]
        for optimiser, variables, _ in self._groups:
            optimiser.finalize_variable_values(variables)
        try:
            yield
        finally:
            for variable, value in zip(self.variables, weights, strict=True):
                variable.assign(value)

    def state(self) -> dict[str, keras.Variable]:
        """Everything the optimisers remember: ``optimiser/…``, and ``average/…`` for the averages
        of the variables, each numbered in a fixed order."""
        averages: list[keras.Variable] = []
        others: list[keras.Variable] = []
        for optimiser, _, _ in self._groups:
            for variable in optimiser.variables:
                is_average = optimiser.use_ema and variable.name.endswith("_average")
                (averages if is_average else others).append(variable)
        return {
            f"{kind}/{number:05d}": variable
            for kind, variables in (("optimiser", others), ("average", averages))
            for number, variable in enumerate(variables)
        }


def _make_keras_optimiser(settings: OptimiserSettings) -> keras.optimizers.Optimizer:
    average = {} if settings.ema_decay is None else {"ema_momentum": settings.ema_decay}
    if settings.kind == "adamw":
        return keras.optimizers.AdamW(
            settings.learning_rate,
            weight_decay=settings.weight_decay,
            use_ema=bool(average),
            **average,
        )
    return keras.optimizers.SGD(
        settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay or None,
        use_ema=bool(average),
        **average,
    )
