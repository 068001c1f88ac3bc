"""Read pickles of plain data: lists, tuples, dicts, sets, text, bytes and numbers.

The official ground truth of revisited Oxford/Paris comes as pickles, and :mod:`pickle` imports and
calls whatever a pickle names. Plain data name nothing, so no name is looked up here at all: nothing
can be imported or run. Limits on the file keep memory below about 1 GB and the stack from
overflowing. Not covered: a file made for the purpose can keep the process busy for ever, by a dict
key of tuples that hold each other many times.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, NoReturn

from delg.errors import UsageError
from delg.paths import is_file

# The official files have 0.3 MB. An instruction of one byte makes an object of at most 216.
MAX_BYTES = 4 << 20
# Hashing tuples in tuples takes stack for each.
MAX_TUPLES = 5000


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"asks for {module}.{name}"[:200])


def _reject_bombs(data: bytes) -> None:
    """Refuse what a small file can do large damage with."""
    tuples = 0
    for opcode, argument, _ in pickletools.genops(data):
        # The unpickler allocates every memo slot below the one it is asked for.
        if opcode.name.endswith("PUT") and int(argument or 0) > len(data):
            raise pickle.UnpicklingError(f"asks for memory for {argument:,} objects")
        tuples += opcode.name.startswith("TUPLE")
    if tuples > MAX_TUPLES:
        raise pickle.UnpicklingError(f"holds more than {MAX_TUPLES:,} tuples")


def load_plain_pickle(path: str | Path) -> Any:
    """Read a pickle that holds plain data, of any protocol, written by Python 2 or 3.

    Strings of Python 2 are read as Latin-1.

    Raises:
        UsageError: the file cannot be read, is larger than 4 MB or damaged, or asks for anything
            but plain data, such as an array of NumPy; what it asks for is named and not run.
    """
    path = Path(path)
    if not is_file(path):
        raise UsageError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise pickle.UnpicklingError(f"is larger than {MAX_BYTES >> 20} MB")
        _reject_bombs(data)
        return _PlainUnpickler(io.BytesIO(data), encoding="latin-1").load()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"{path}: {error}; only lists, dicts, text and numbers are read from a pickle "
            "(turn arrays into lists by tolist()), and nothing in it was run"
        ) from None
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError,
            EOFError, AssertionError) as error:  # fmt: skip
        # What pickle and pickletools raise over a damaged file.
        raise UsageError(f"{path}: not a pickle, or damaged ({str(error)[:200]})") from None
