"""Read the plain data of a MATLAB file: cells, structs, text and numbers, flattened.

SciPy reads the file, in a process of its own: damaged files can crash its reader.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from delg.errors import UsageError
from delg.paths import is_file

# INSTRE's ground truth has 0.2 MB.
MAX_BYTES = 32 << 20
_READER = Path(__file__).with_name("mat_to_json.py")
_TIMEOUT_SECONDS = 120


def read_mat(path: str | Path, variables: Collection[str]) -> dict[str, Any]:
    """Read variables of a MATLAB file.

    Args:
        path: a file of version 4 to 7 (-v7.3 is another format).
        variables: their names; others are passed over.

    Returns:
        Those that exist: a cell array as a list of values, a struct array as a list of dicts with
        the fields in their order, text as str, an array of numbers as a flat list, by columns.

    Raises:
        UsageError: the file cannot be read, is too large, damaged, of another version, or a
            variable holds anything else.
    """
    path = Path(path)
    if not is_file(path):
        raise UsageError(f"{path}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise UsageError(f"{path}: not a MATLAB file: it is larger than {MAX_BYTES >> 20} MB")
    command = [sys.executable, str(_READER), str(path), *variables]
    try:
        reader = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        raise UsageError(f"{path}: not a MATLAB file, or damaged (reading never ends)") from None
    if reader.returncode:
        reason = reader.stderr.strip().rpartition("\n")[2] or "SciPy's reader crashed"
        raise UsageError(f"{path}: not a MATLAB file, or damaged ({reason[:200]})")
    values: dict[str, Any] = json.loads(reader.stdout)
    return values
