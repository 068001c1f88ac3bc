"""Readers of datasets: each turns a dataset's files into an :class:`eval.benchmark.Benchmark`.

One file per dataset; it says where the data come from, the layout it expects and the protocol. No
reader decodes a photo or downloads anything.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from delg.errors import UsageError
from eval.benchmark import Benchmark

# Name -> module and function; imported only when needed.
READERS = {
    "revisited": ("revisited", "read_revisited"),
    "gldv2-retrieval": ("gldv2", "read_gldv2_retrieval"),
    "gldv2-recognition": ("gldv2", "read_gldv2_recognition"),
    "met": ("met", "read_met"),
    "sop": ("sop", "read_sop"),
    "instre": ("instre", "read_instre"),
    "folders": ("folders", "read_folders"),
    "queries": ("queries", "read_queries"),
}


def get_reader(name: str) -> Callable[..., Benchmark]:
    """The function that reads a dataset; its arguments depend on the dataset.

    Raises:
        UsageError: no dataset of that name.
    """
    if name not in READERS:
        raise UsageError(f"no dataset called {name!r}; there are {', '.join(READERS)}")
    module, function = READERS[name]
    reader: Callable[..., Benchmark] = getattr(
        importlib.import_module(f"{__name__}.{module}"), function
    )
    return reader
