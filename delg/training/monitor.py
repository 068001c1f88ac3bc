"""What a run writes on its way: log messages, ``log.jsonl`` and TensorBoard events."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import summary_pb2
from tensorflow.core.util import event_pb2

from delg.images.pyramid import level
from delg.network.delg_model import Delg
from delg.training.training_model import value_of

logger = logging.getLogger(__name__)

_SHOWN = ("loss", "distillation", "relational", "arcface", "arcface_accuracy", "instance",
          "instance_accuracy", "warp_matched", "descriptor_accuracy", "attention_accuracy",
          "images_per_s", "waiting")  # fmt: skip
_SAMPLE_SIDE = 320


class EventWriter:
    """A file of TensorBoard events. An event file is a TFRecord of protobufs that TensorFlow has
    at hand, so TensorBoard itself need not be installed to write one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}"
        self._writer = tf.io.TFRecordWriter(str(folder / name))
        self._write(event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2"))

    def _write(self, event: event_pb2.Event) -> None:
        self._writer.write(event.SerializeToString())
        self._writer.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step by name."""
        entries = [summary_pb2.Summary.Value(tag=k, simple_value=v) for k, v in values.items()]
        summary = summary_pb2.Summary(value=entries)
        self._write(event_pb2.Event(wall_time=time.time(), step=step, summary=summary))

    def image(self, step: int, tag: str, pixels: np.ndarray) -> None:
        """uint8 (H, W, 3), RGB."""
        coded = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
        image = summary_pb2.Summary.Image(
            height=pixels.shape[0], width=pixels.shape[1], colorspace=3, encoded_image_string=coded
        )
        summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=tag, image=image)])
        self._write(event_pb2.Event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class Monitor:
    """Follows one run; used as a context.

    Args:
        out: the run's folder.
        model: whose GeM power and attention are shown.
        samples: a few photos, uint8 (H, W, 3), over which attention is drawn.
    """

    def __init__(self, out: Path, model: Delg, samples: list[np.ndarray]) -> None:
        self._out, self._model, self._samples = out, model, samples
        self._events = EventWriter(out / "tensorboard")
        self._log = (out / "log.jsonl").open("a", encoding="utf-8")

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._events.close()
        self._log.close()

    def log_step(self, step: int, values: Mapping[str, float]) -> None:
        """Record the losses of a step."""
        if self._model.pooling is not None:
            values = {**values, "gem_p": float(value_of(self._model.pooling.p))}
        self._record(step, "train", values)
        shown = ", ".join(f"{name} {values[name]:.3g}" for name in _SHOWN if name in values)
        logger.info("step %d: %s", step, shown)

    def log_validation(self, step: int, values: Mapping[str, float]) -> None:
        """Record a validation, and draw the attention as it is now."""
        self._record(step, "validation", values)
        if values:
            shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
            logger.info("step %d: %s", step, shown)
        for number, photo in enumerate(self._samples):
            self._events.image(step, f"attention/{number}", draw_attention(self._model, photo))

    def _record(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        self._events.scalars(step, {f"{kind}/{name}": value for name, value in values.items()})
        line = {"step": step, "kind": kind, "time": round(time.time(), 1), **values}
        self._log.write(json.dumps(line) + "\n")
        self._log.flush()


def draw_attention(model: Delg, photo: np.ndarray) -> np.ndarray:
    """The photo with its attention laid over it, red where it is highest; uint8 (H, W, 3)."""
    pixels = level(photo, 1.0, _SAMPLE_SIDE).pixels
    scores: Any = model.local_head(model.mid_level(pixels[None]))[1]
    heat = np.asarray(scores, np.float32)[0]
    heat = (heat - heat.min()) / max(float(np.ptp(heat)), 1e-9)
    large = cv2.resize((heat * 255).astype(np.uint8), pixels.shape[1::-1])
    colours = cv2.applyColorMap(large, cv2.COLORMAP_JET)[..., ::-1]
    return np.asarray(cv2.addWeighted(pixels, 0.5, np.ascontiguousarray(colours), 0.5, 0), np.uint8)
