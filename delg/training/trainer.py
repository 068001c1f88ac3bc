"""One training step, and everything that changes from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from delg.errors import DelgError
from delg.training.batches import Batch
from delg.training.checkpoint import Checkpoint, restore
from delg.training.optimizer import Optimiser, rate_at
from delg.training.settings import TrainSettings
from delg.training.training_model import TrainingModel, value_of
from delg.types import FloatArray

Arrays = dict[str, np.ndarray]
# The loss scale doubles after so many steps without overflow.
_STEPS_TO_GROW = 1000


class NotFiniteError(DelgError):
    """A step's losses are not finite; the weights have been spoilt by it."""

    def __init__(self, step: int, names: Sequence[str]) -> None:
        super().__init__(f"step {step}: {', '.join(names)} is not finite")


class CrossBatchMemory:
    """The last descriptors with their photos and labels, oldest overwritten first (arXiv
    1912.06798)."""

    def __init__(self, size: int, dim: int) -> None:
        self.descriptors = np.zeros((size, dim), np.float32)
        self.photos = np.full(size, -1, np.int32)
        self.labels = np.full(size, -1, np.int32)
        self.next = np.zeros((), np.int64)

    def add(
        self, descriptors: FloatArray, photos: NDArray[np.int32], labels: NDArray[np.int32]
    ) -> None:
        """Remember descriptors (N, D) of photos (N,) with labels (N,)."""
        size = len(self.photos)
        if not size:
            return
        rows = (int(self.next) + np.arange(len(photos))) % size
        self.descriptors[rows] = descriptors
        self.photos[rows], self.labels[rows] = photos, labels
        self.next[...] = (int(self.next) + len(photos)) % size

    def tensors(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Descriptors (M, D), photos (M,), -1 where a row is not filled yet, and labels (M,)."""
        return tf.constant(self.descriptors), tf.constant(self.photos), tf.constant(self.labels)


class Trainer:
    """Runs steps; can be saved and restored at any step.

    Attributes:
        step: steps done so far.
    """

    def __init__(
        self,
        training_model: TrainingModel,
        settings: TrainSettings,
        strategy: tf.distribute.Strategy,
    ) -> None:
        self.training_model, self.settings = training_model, settings
        self._strategy = strategy
        # float16 gradients underflow; scaling the loss up keeps them in range. Keras'
        # LossScaleOptimizer has a scale per optimiser: of two, one could skip a step alone.
        self._scales_loss = settings.schedule.precision == "mixed_float16"
        with strategy.scope():
            self.optimiser = Optimiser(training_model, settings.optimiser)
            self._loss_scale = tf.Variable(2.0**15 if self._scales_loss else 1.0, trainable=False)
            self._steps_since_overflow = tf.Variable(0, trainable=False)
        infonce = settings.losses.infonce
        size = infonce.cross_batch_memory if infonce.weight else 0
        self.memory = CrossBatchMemory(size, settings.model.global_head.dim)
        self.step = 0
        self._run_step = tf.function(self._distributed_step, autograph=False)

    # --- a step ---

    def train(self, batch: Batch) -> dict[str, float]:
        """Do one step.

        Returns:
            The losses and accuracies, ``rate`` and ``gradient_norm``.

        Raises:
            NotFiniteError: a loss is not; nothing may be saved after it.
        """
        rate = rate_at(self.step, self.settings.schedule.steps, self.settings.optimiser)
        self.optimiser.set_rate(rate)
        replicas = self._strategy.num_replicas_in_sync
        pieces = split_batch(batch, self.settings.schedule.accumulate * replicas)
        shares = [pieces[number::replicas] for number in range(replicas)]
        values, descriptors = self._run_step(self._distribute(shares), self.memory.tensors())
        metrics = {name: float(value) for name, value in values.items()}
        not_finite = sorted(name for name, value in metrics.items() if not np.isfinite(value))
        if self._scales_loss:
            # A step whose scaled gradients overflowed was skipped; that is no fault of the data.
            not_finite = [name for name in not_finite if name != "gradient_norm"]
        if not_finite:
            raise NotFiniteError(self.step, not_finite)
        if len(self.memory.photos):
            in_order = [piece for share in shares for piece in share]
            photos, labels = (
                np.concatenate([np.tile(p[key], self.settings.augment.views) for p in in_order])
                for key in ("photos", "labels")
            )
            self.memory.add(descriptors.numpy(), photos, labels)
        self.step += 1
        return {**metrics, "rate": rate}

    def _distribute(self, shares: Sequence[Sequence[Arrays]]) -> Any:
        tensors = [
            [{name: tf.constant(array) for name, array in piece.items()} for piece in share]
            for share in shares
        ]
        if len(tensors) == 1:
            return tensors[0]
        return self._strategy.experimental_distribute_values_from_function(
            lambda context: tensors[context.replica_id_in_sync_group]
        )

    def _distributed_step(
        self, shares: Any, memory: tuple[tf.Tensor, ...]
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        if self._strategy.num_replicas_in_sync == 1:
            return self._replica_step(shares, memory)
        values, descriptors = self._strategy.run(self._replica_step, (shares, memory))
        mean = {
            name: self._strategy.reduce(tf.distribute.ReduceOp.MEAN, value, axis=None)
            for name, value in values.items()
        }
        return mean, tf.concat(self._strategy.experimental_local_results(descriptors), axis=0)

    def _replica_step(
        self, pieces: Sequence[dict[str, tf.Tensor]], memory: Any
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Gradients summed over the pieces and averaged over pieces and replicas, then applied.

        Keras' gradient_accumulation_steps adds up inside each optimiser, where the norm of the sum
        over both, by which they are clipped, is not known.
        """
        variables = [variable.value for variable in self.optimiser.variables]
        totals = [tf.zeros_like(value) for value in variables]
        metrics: dict[str, tf.Tensor] = {}
        descriptors = []
        for piece in pieces:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(variables)
                loss, parts, piece_descriptors = self.training_model.loss(piece, memory)
                scaled = loss * self._loss_scale
            gradients = tape.gradient(scaled, variables, unconnected_gradients="zero")
            totals = [total + grad for total, grad in zip(totals, gradients, strict=True)]
            for name, value in parts.items():
                metrics[name] = metrics.get(name, 0.0) + value / len(pieces)
            descriptors.append(piece_descriptors)
        replicas = self._strategy.num_replicas_in_sync
        if replicas > 1:
            context = tf.distribute.get_replica_context()
            totals = context.all_reduce(tf.distribute.ReduceOp.SUM, totals)
        divisor = self._loss_scale * float(len(pieces) * replicas)
        metrics["gradient_norm"] = self._apply([total / divisor for total in totals])
        return metrics, tf.concat(descriptors, axis=0)

    def _apply(self, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        replicas = self._strategy.num_replicas_in_sync
        if not self._scales_loss:
            return self.optimiser.apply(gradients, replicas)
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])
        # The scale halves when gradients overflow.
        scale, calm = self._loss_scale, self._steps_since_overflow
        grow = finite & (calm >= _STEPS_TO_GROW - 1)
        norm = tf.cond(
            finite, lambda: self.optimiser.apply(gradients, replicas), lambda: tf.constant(np.inf)
        )
        scale.assign(tf.where(finite, tf.where(grow, scale * 2, scale), scale / 2))
        calm.assign(tf.where(finite & ~grow, calm + 1, 0))
        return norm

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the model has its averaged weights; see :meth:`Optimiser.averaged`."""
        return self.optimiser.averaged()

    # --- state ---

    def _state(self) -> dict[str, Any]:
        named = {f"weights/{name}": value for name, value in self.training_model.variables()}
        return {
            **named,
            **self.optimiser.state(),
            "scaling/scale": self._loss_scale,
            "scaling/calm": self._steps_since_overflow,
        }

    def snapshot(self, metadata: dict[str, Any]) -> Checkpoint:
        """Everything, as it is now."""
        arrays = {name: value_of(variable) for name, variable in self._state().items()}
        for name, array in vars(self.memory).items():
            arrays[f"memory/{name}"] = array.copy()
        return Checkpoint(self.step, arrays, metadata)

    def restore(self, checkpoint: Checkpoint, origin: str) -> None:
        """Continue from a checkpoint.

        Raises:
            DelgError: it was made with other settings.
        """
        memory = {n: a for n, a in checkpoint.arrays.items() if n.startswith("memory/")}
        others = {n: a for n, a in checkpoint.arrays.items() if n not in memory}
        restore(self._state(), others, origin)
        for name, array in memory.items():
            getattr(self.memory, name.removeprefix("memory/"))[...] = array
        self.step = checkpoint.step


def split_batch(batch: Batch, parts: int) -> list[Arrays]:
    """The batch in parts of equally many photos, each with all views of its photos."""
    count = len(batch.photos)
    views = len(batch.images) // count
    result = []
    for photos in np.arange(count).reshape(parts, count // parts):
        rows = (np.arange(views)[:, None] * count + photos).ravel()
        result.append(
            {
                "images": batch.images[rows],
                "homographies": batch.homographies[rows],
                "labels": batch.labels[photos],
                "photos": batch.photos[photos],
                "sizes": batch.sizes[photos],
            }
        )
    return result
