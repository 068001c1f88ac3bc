"""Diagnostics: installed packages and where they come from, hardware, the default model."""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from delg.errors import DelgError
from delg.network.tensorflow_import import load_tensorflow
from delg.zoo.registry import DEFAULT_MODEL, find_model, load_model

# Import name -> distribution.
_PACKAGES = {
    "delg": "delg-retrieval",
    "index": "delg-retrieval",
    "eval": "delg-retrieval",
    "tensorflow": "tensorflow",
    "keras": "keras",
    "onnxruntime": "onnxruntime",
    "faiss": "faiss-cpu",
    "numba": "numba",
    "numpy": "numpy",
    "cv2": "opencv-python-headless",
    "skimage": "scikit-image",
    "h5py": "h5py",
    "PIL": "pillow",
    "pydantic": "pydantic",
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
}
_OPTIONAL = {"pillow_heif": "pillow-heif"}


def _package(module: str, distribution: str) -> dict[str, str]:
    try:
        file = importlib.import_module(module).__file__
        folder = str(Path(file).parent) if file else "?"
    except Exception as error:  # A broken installation may raise anything on import.
        return {"error": f"{type(error).__name__}: {error}"}
    try:
        return {"version": metadata.version(distribution), "from": folder}
    except metadata.PackageNotFoundError:
        return {"version": "?", "from": folder}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _model() -> dict[str, str]:
    try:
        runtime = load_model(DEFAULT_MODEL).network.runtime
        fingerprint = find_model(DEFAULT_MODEL).fingerprint
        return {"name": DEFAULT_MODEL, "fingerprint": fingerprint, "runtime": runtime}
    except (DelgError, ImportError) as error:
        return {"name": DEFAULT_MODEL, "error": str(error)}


def _gpus() -> list[str]:
    try:
        import tensorflow as tf

        return [device.name for device in tf.config.list_physical_devices("GPU")]
    except ImportError:
        return []


def examine() -> dict[str, Any]:
    """Versions, hardware, packages, and whether the default model loads.

    Returns:
        Plain values; a package or a model that does not work has the key ``error``.
    """
    with contextlib.suppress(Exception):
        load_tensorflow()  # If it fails, the package's entry below says why.
    packages = {module: _package(module, name) for module, name in _PACKAGES.items()}
    optional = {module: _package(module, name) for module, name in _OPTIONAL.items()}
    return {
        "python": {"version": platform.python_version(), "from": sys.executable},
        "system": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "gpus": _gpus(),
        "packages": packages,
        "optional": optional,
        "model": _model(),
    }


def problems(report: dict[str, Any]) -> list[str]:
    """The errors in a report of :func:`examine`."""
    errors = [
        f"{name}: {package['error']}"
        for name, package in report["packages"].items()
        if "error" in package
    ]
    model = report["model"]
    if "error" in model:
        errors.append(f"model {model['name']}: {model['error']}")
    return errors
