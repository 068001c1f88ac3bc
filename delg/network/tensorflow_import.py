"""Loading TensorFlow without the notes on CPUs and GPUs with which it greets everybody."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from tempfile import TemporaryFile


def load_tensorflow() -> None:
    """Import TensorFlow; what its libraries say meanwhile is heard only if that fails.

    They write to the process's own stderr, past Python, before they read how much is wanted.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    with TemporaryFile() as said:
        stderr = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            import_module("tensorflow")
        except BaseException:
            said.seek(0)
            os.write(stderr, said.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
