"""Importing TensorFlow without the notes on CPUs and GPUs that it prints."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from tempfile import TemporaryFile


def load_tensorflow() -> None:
    """Import TensorFlow; what its libraries print meanwhile is shown only if that fails.

    They write to the process's own stderr, past Python, before they read the log level.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    with TemporaryFile() as output:
        stderr = os.dup(2)
        os.dup2(output.fileno(), 2)
        try:
            import_module("tensorflow")
        except BaseException:
            output.seek(0)
            os.write(stderr, output.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
