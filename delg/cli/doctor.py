"""Diagnostics: installed packages and where they come from, hardware, the default model."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from delg.compiled import damaged_caches
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
_DISTRIBUTION = "delg-retrieval"
_OWN = tuple(module for module, name in _PACKAGES.items() if name == _DISTRIBUTION)
_OPTIONAL = {
    "pillow_heif": "pillow-heif",
    "fsspec": "fsspec",
    "s3fs": "s3fs",
    "gcsfs": "gcsfs",
    "sshfs": "sshfs",
}


def _package(module: str, distribution: str) -> dict[str, str]:
    try:
        loaded = importlib.import_module(module)
        # A folder without code in it is a package too, and has no file.
        folder = str(Path(loaded.__file__ or f"{next(iter(loaded.__path__))}/-").parent)
    except Exception as error:  # A broken installation may raise anything on import.
        return {"error": f"{type(error).__name__}: {error}"}
    try:
        return {"version": metadata.version(distribution), "from": folder}
    except metadata.PackageNotFoundError:
        return {"version": "?", "from": folder}


def _installed_folder() -> Path | None:
    """The folder that the installed packages lie in; None if nothing is installed."""
    try:
        installed = metadata.distribution(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        return Path(url2pathname(urlsplit(origin["url"]).path))
    return Path(str(installed.locate_file("")))


def _misplaced(module: str) -> str:
    """Whether one of our own packages is not the installed one, and why; empty if it is."""
    expected = _installed_folder()
    loaded = sys.modules.get(module)
    if expected is None or loaded is None:
        return ""
    folders = [Path(folder).resolve() for folder in loaded.__path__]
    if folders != [(expected / module).resolve()]:
        return (
            f"comes from {folders[0] if folders else 'nowhere'}, not from {expected / module}, "
            "which is installed: run it from another folder, and look into PYTHONPATH"
        )
    others = set(metadata.packages_distributions().get(module, ())) - {_DISTRIBUTION}
    if others:
        return f"{', '.join(sorted(others))} installs a package of this name too: remove it"
    return ""


def _damaged_caches(module: str) -> list[str]:
    """Damaged files of compiled loops, of a package and what is in it."""
    folder = Path(sys.modules[module].__path__[0])
    damaged: list[str] = []
    for file in sorted(folder.rglob("*.py")):
        if "\n@compiled\n" in file.read_text("utf-8", "replace"):
            name = ".".join([module, *file.relative_to(folder).with_suffix("").parts])
            damaged += map(str, damaged_caches(importlib.import_module(name)))
    return damaged


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


def _model(name: str) -> dict[str, str]:
    try:
        extractor = load_model(name)
        export = find_model(name).settings.export
        runtime = "TensorFlow" if export else extractor.backend.description
        return {"name": name, "fingerprint": extractor.fingerprint, "runtime": runtime}
    except (DelgError, ImportError) as error:
        return {"name": name, "error": str(error)}


def _gpus() -> list[str]:
    try:
        import tensorflow as tf

        return [device.name for device in tf.config.list_physical_devices("GPU")]
    except ImportError:
        return []


def examine(model: str = DEFAULT_MODEL) -> dict[str, Any]:
    """Versions, hardware, packages, and whether a model loads.

    Args:
        model: a shipped model's name or a model's folder.

    Returns:
        Plain values; a package or a model that does not work has the key ``error``, one of ours
        that is not the installed one has ``problem``.
    """
    with contextlib.suppress(Exception):
        load_tensorflow()  # If it fails, the package's entry below says why.
    packages = {module: _package(module, name) for module, name in _PACKAGES.items()}
    caches: list[str] = []
    for module in _OWN:
        problem = _misplaced(module)
        if problem:
            packages[module]["problem"] = problem
        elif "error" not in packages[module]:
            caches += _damaged_caches(module)
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
        "damaged_caches": caches,
        "model": _model(model),
    }


def problems(report: dict[str, Any]) -> list[str]:
    """The errors in a report of :func:`examine`."""
    errors = [
        f"{name}: {package[kind]}"
        for name, package in report["packages"].items()
        for kind in ("error", "problem")
        if kind in package
    ]
    errors += [
        f"{path}: damaged; delete it, or let the next query compile its loops anew"
        for path in report["damaged_caches"]
    ]
    tried = report["model"]
    if "error" in tried:
        errors.append(f"model {tried['name']}: {tried['error']}")
    return errors
