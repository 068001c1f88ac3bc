"""A script: variables of a MATLAB file as JSON on stdout. Run by :mod:`eval.datasets.mat_file`."""

from __future__ import annotations

import json
import sys
from typing import Any

import scipy.io

# Memory that reading may take.
_MAX_BYTES = 4 << 30


def plain(value: Any) -> Any:
    """A value of :func:`scipy.io.loadmat` in Python's own types; arrays by columns.

    Raises:
        TypeError: it is neither cell, struct, text nor real numbers.
    """
    names = getattr(value.dtype, "names", None)
    flat = value.ravel(order="F")
    if names:
        return [{name: plain(row[name]) for name in names} for row in flat]
    if value.dtype.kind == "O":
        return [plain(item) for item in flat]
    if value.dtype.kind == "U":
        return "".join(flat.tolist())
    if value.dtype.kind in "biuf":
        return flat.tolist()
    raise TypeError(f"a value of type {value.dtype} is neither cell, struct, text nor real numbers")


if __name__ == "__main__":
    if sys.platform != "win32":
        import resource

        # A compressed file may hold a thousand times its size.
        resource.setrlimit(resource.RLIMIT_AS, (_MAX_BYTES, _MAX_BYTES))
    path, *variables = sys.argv[1:]
    content = scipy.io.loadmat(path, variable_names=variables)
    json.dump({name: plain(content[name]) for name in variables if name in content}, sys.stdout)
