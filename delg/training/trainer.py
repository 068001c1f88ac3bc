"""One step, and everything that changes from step to step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from delg.errors import DelgError
from delg.training.batches import Batch
from delg.training.checkpoint import Checkpoint, restore
from delg.training.optimizer import Optimiser, rate_at
from delg.training.settings import TrainSettings
from delg.training.training_model import Learner

Arrays = dict[str, np.ndarray]


def value_of(variable: Any) -> np.ndarray:
    """A variable's value, also where every replica has a copy of it."""
    inner = variable.value if isinstance(variable, keras.Variable) else variable
    return np.array(tf.convert_to_tensor(inner))


class NotFiniteError(DelgError):
    """A step's losses are not finite; the weights have been spoilt by it."""

    def __init__(self, step: int, names: Sequence[str]) -> None:
        super().__init__(f"step {step}: {', '.join(names)} is not finite")


class Memory:
    """The last descriptors with their photos and labels, oldest overwritten first."""

    def __init__(self, size: int, dim: int) -> None:
        self.descriptors = np.zeros((size, dim), np.float32)
        self.photos = np.full(size, -1, np.int32)
        self.labels = np.full(size, -1, np.int32)
        self.next = np.zeros((), np.int64)

    def add(self, descriptors: np.ndarray, photos: np.ndarray, labels: np.ndarray) -> None:
        size = len(self.photos)
        if not size:
            return
        places = (int(self.next) + np.arange(len(photos))) % size
        self.descriptors[places] = descriptors
        self.photos[places], self.labels[places] = photos, labels
        self.next[...] = (int(self.next) + len(photos)) % size

    def tensors(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return tf.constant(self.descriptors), tf.constant(self.photos), tf.constant(self.labels)


class Trainer:
    """Runs steps; can be saved and restored at any step.

    Attributes:
        step: steps done so far.
    """

    def __init__(
        self, learner: Learner, settings: TrainSettings, strategy: tf.distribute.Strategy
    ) -> None:
        self.learner, self.settings = learner, settings
        self._strategy = strategy
        self._half = settings.loop.precision == "mixed_float16"
        with strategy.scope():
            self.optimiser = Optimiser(learner, settings.optimiser)
            self._averages = [
                tf.Variable(value_of(variable), trainable=False)
                for variable in (self.optimiser.variables if settings.optimiser.average else ())
            ]
            # float16 gradients underflow; scaling the loss up keeps them in range.
            self._scale = tf.Variable(2.0**15 if self._half else 1.0, trainable=False)
            self._calm = tf.Variable(0, trainable=False)
        instance = settings.losses.instance
        size = instance.memory if instance.weight else 0
        self.memory = Memory(size, settings.model.global_head.dim)
        self.step = 0
        self._run = tf.function(self._distributed, autograph=False)

    # --- a step ---

    def train(self, batch: Batch) -> dict[str, float]:
        """Do one step.

        Returns:
            The losses and accuracies, ``rate`` and ``gradient_norm``.

        Raises:
            NotFiniteError: a loss is not; nothing may be saved after it.
        """
        rate = rate_at(self.step, self.settings.loop.steps, self.settings.optimiser)
        self.optimiser.set_rate(rate)
        replicas = self._strategy.num_replicas_in_sync
        pieces = split_batch(batch, self.settings.loop.accumulate * replicas)
        shares = [pieces[number::replicas] for number in range(replicas)]
        values, descriptors = self._run(self._deal(shares), self.memory.tensors())
        numbers = {name: float(value) for name, value in values.items()}
        bad = sorted(name for name, value in numbers.items() if not np.isfinite(value))
        if self._half:
            # A step whose scaled gradients overflowed was skipped; that is no fault of the data.
            bad = [name for name in bad if name != "gradient_norm"]
        if bad:
            raise NotFiniteError(self.step, bad)
        if len(self.memory.photos):
            ordered = [piece for share in shares for piece in share]
            photos, labels = (
                np.concatenate([np.tile(p[key], self.settings.augment.views) for p in ordered])
                for key in ("photos", "labels")
            )
            self.memory.add(descriptors.numpy(), photos, labels)
        self.step += 1
        if self._averages:
            self._update_averages()
        return {**numbers, "rate": rate}

    def _deal(self, shares: Sequence[Sequence[Arrays]]) -> Any:
        tensors = [[{k: tf.constant(v) for k, v in one.items()} for one in s] for s in shares]
        if len(tensors) == 1:
            return tensors[0]
        return self._strategy.experimental_distribute_values_from_function(
            lambda context: tensors[context.replica_id_in_sync_group]
        )

    def _distributed(
        self, shares: Any, memory: tuple[tf.Tensor, ...]
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        if self._strategy.num_replicas_in_sync == 1:
            return self._replica(shares, memory)
        values, descriptors = self._strategy.run(self._replica, (shares, memory))
        mean = {
            name: self._strategy.reduce(tf.distribute.ReduceOp.MEAN, value, axis=None)
            for name, value in values.items()
        }
        return mean, tf.concat(self._strategy.experimental_local_results(descriptors), axis=0)

    def _replica(
        self, pieces: Sequence[dict[str, tf.Tensor]], memory: Any
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Gradients summed over the pieces and averaged over pieces and replicas, then applied."""
        variables = self.optimiser.variables
        raw = [variable.value for variable in variables]
        totals = [tf.zeros_like(value) for value in raw]
        sums: dict[str, tf.Tensor] = {}
        descriptors = []
        for piece in pieces:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(raw)
                loss, parts, whole = self.learner.loss(piece, memory)
                scaled = loss * self._scale
            found = tape.gradient(scaled, raw, unconnected_gradients="zero")
            totals = [total + one for total, one in zip(totals, found, strict=True)]
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value / len(pieces)
            descriptors.append(whole)
        replicas = self._strategy.num_replicas_in_sync
        if replicas > 1:
            context = tf.distribute.get_replica_context()
            totals = context.all_reduce(tf.distribute.ReduceOp.SUM, totals)
        divisor = self._scale * float(len(pieces) * replicas)
        gradients = [total / divisor for total in totals]
        sums["gradient_norm"] = self._apply(gradients)
        return sums, tf.concat(descriptors, axis=0)

    def _apply(self, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        replicas = self._strategy.num_replicas_in_sync
        if not self._half:
            return self.optimiser.apply(gradients, replicas)
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])
        # The scale halves when gradients overflow and doubles after a thousand steps without.
        grow = finite & (self._calm >= 999)
        norm = tf.cond(
            finite, lambda: self.optimiser.apply(gradients, replicas), lambda: tf.constant(np.inf)
        )
        self._scale.assign(
            tf.where(finite, tf.where(grow, self._scale * 2, self._scale), self._scale / 2)
        )
        self._calm.assign(tf.where(finite & ~grow, self._calm + 1, 0))
        return norm

    @tf.function
    def _update_averages(self) -> None:
        keep = self.settings.optimiser.average or 0.0
        for average, variable in zip(self._averages, self.optimiser.variables, strict=True):
            average.assign(keep * average + (1.0 - keep) * tf.cast(variable.value, average.dtype))

    # --- the averaged weights ---

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model has its averaged weights; without averages nothing changes."""
        variables = self.optimiser.variables[: len(self._averages)]
        kept = [value_of(variable) for variable in variables]
        for variable, average in zip(variables, self._averages, strict=True):
            variable.assign(value_of(average))
        try:
            yield
        finally:
            for variable, value in zip(variables, kept, strict=True):
                variable.assign(value)

    # --- state ---

    def _state(self) -> dict[str, Any]:
        named = {f"weights/{name}": variable for name, variable in self.learner.variables()}
        for number, variable in enumerate(self.optimiser.state()):
            named[f"optimiser/{number:05d}"] = variable
        for number, average in enumerate(self._averages):
            named[f"average/{number:05d}"] = average
        return {**named, "scaling/scale": self._scale, "scaling/calm": self._calm}

    def snapshot(self, facts: dict[str, Any]) -> Checkpoint:
        """Everything, as it is now."""
        arrays = {name: value_of(variable) for name, variable in self._state().items()}
        for name, array in vars(self.memory).items():
            arrays[f"memory/{name}"] = array.copy()
        return Checkpoint(self.step, arrays, facts)

    def restore(self, checkpoint: Checkpoint, origin: str) -> None:
        """Continue from a checkpoint.

        Raises:
            DelgError: it was made with other settings.
        """
        memory = {n: a for n, a in checkpoint.arrays.items() if n.startswith("memory/")}
        rest = {n: a for n, a in checkpoint.arrays.items() if n not in memory}
        restore(self._state(), Checkpoint(checkpoint.step, rest, {}), "", origin)
        for name, array in memory.items():
            getattr(self.memory, name.removeprefix("memory/"))[...] = array
        self.step = checkpoint.step


def split_batch(batch: Batch, parts: int) -> list[Arrays]:
    """The batch in parts of equally many photos, each with all views of its photos."""
    count = len(batch.photos)
    rows = np.arange(count).reshape(parts, count // parts)
    views = len(batch.images) // count
    result = []
    for some in rows:
        every = (np.arange(views)[:, None] * count + some).ravel()
        result.append(
            {
                "images": batch.images[every],
                "homographies": batch.homographies[every],
                "labels": batch.labels[some],
                "photos": batch.photos[some],
                "sizes": batch.sizes[some],
            }
        )
    return result
