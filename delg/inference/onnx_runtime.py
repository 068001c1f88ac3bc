"""Networks in ONNX Runtime, from files that :mod:`delg.inference.export_onnx` writes."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from delg.errors import ModelError
from delg.forks import PerProcess
from delg.inference.backend import LevelOutput

# More photos in the network at a time would cost memory and hardly be faster.
_MAX_PARALLEL_IMAGES = 8
# ONNX Runtime's warnings are about graphs, which users did not write.
_ERRORS_ONLY = 3

IMAGE, WITH_LOCAL, WITH_GLOBAL = "image", "with_local", "with_global"
DESCRIPTORS, SCORES, GLOBAL = "descriptors", "scores", "global"
# Keys of the file's metadata.
STRIDE, OFFSET, DIGEST, PRECISION = "stride", "offset", "digest", "precision"


def load_session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    """An ONNX model, ready to run in that many threads.

    Raises:
        ModelError: it is damaged or uses what this version of ONNX Runtime does not know.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    # Threads that wait actively would take the cores from decoding and from other photos.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no public base.
        raise ModelError(f"not a network that ONNX Runtime can run ({error})") from None


class OnnxRuntimeBackend:
    """A DELG network in ONNX Runtime.

    Args:
        model: bytes of the ONNX file.
        origin: names the file.

    Raises:
        ModelError: the file is damaged, or not of this package's making.
    """

    def __init__(self, model: bytes, origin: str) -> None:
        self._cores = os.cpu_count() or 1
        self.parallel_images = min(self._cores, _MAX_PARALLEL_IMAGES)
        self._single = PerProcess(lambda: load_session(model, self._cores))
        # With cores of its own, a photo waits for no other thread.
        threads = self._cores // self.parallel_images
        self._parallel = PerProcess(lambda: load_session(model, threads))
        try:
            self.metadata = self._single().get_modelmeta().custom_metadata_map
            self._stride = int(self.metadata[STRIDE])
            self._offset = float(self.metadata[OFFSET])
        except (KeyError, ValueError):
            raise ModelError(f"{origin}: lacks the stride of its cells; export it anew") from None
        except ModelError as error:
            raise ModelError(f"{origin}: {error}") from None
        self._has_global = GLOBAL in {output.name for output in self._single().get_outputs()}
        precision = self.metadata.get(PRECISION, "float32")
        self.description = f"ONNX Runtime, {precision}, {origin}"

    def run(
        self,
        pixels: NDArray[np.uint8],
        *,
        with_local: bool = True,
        with_global: bool = True,
        all_cores: bool = True,
    ) -> LevelOutput:
        """Run one level; see :class:`delg.inference.backend.Backend`."""
        session = self._single() if all_cores else self._parallel()
        inputs = {IMAGE: pixels[None], WITH_LOCAL: np.array(with_local)}
        names = [DESCRIPTORS, SCORES]
        if self._has_global:
            inputs[WITH_GLOBAL] = np.array(with_global)
            names.append(GLOBAL)
        descriptors, scores, *global_descriptors = session.run(names, inputs)
        return LevelOutput.from_maps(
            descriptors[0],
            scores[0],
            global_descriptors[0][0] if self._has_global and with_global else None,
            self._stride,
            self._offset,
        )
