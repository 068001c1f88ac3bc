"""Stanford Online Products, the test part (Oh Song et al., CVPR 2016, arXiv 1511.06452).

From cvgl.stanford.edu/projects/lifted_struct. Layout of the folder Stanford_Online_Products::

    Ebay_test.txt   "image_id class_id super_class_id path", separated by spaces, with that header
    bicycle_final/  cabinet_final/ …   the photos, such as bicycle_final/111085122871_0.JPG

The test part has 60,502 photos of 11,316 products that are not in Ebay_train.txt. Every photo is a
query against all others of the part; relevant are the other photos of its product. The measure is
recall@1, 10, 100 and 1000.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from delg.errors import UsageError
from delg.paths import normal_form
from delg.plain_values import limited_lines
from eval.benchmark import Benchmark, QueryPhoto, RetrievalTruth
from eval.datasets.photos import find_photos

_LIST = "Ebay_test.txt"
_HEADER = ["image_id", "class_id", "super_class_id", "path"]


def read_sop(root: Path) -> Benchmark:
    """Read the test part.

    Args:
        root: the folder Stanford_Online_Products. Ids are the paths of ``Ebay_test.txt``.

    Raises:
        UsageError: the list is missing or malformed, or photos are missing.
    """
    root = Path(root)
    products = _read_list(root / _LIST)
    photos = find_photos(root, list(products), root / _LIST)
    same: dict[str, set[str]] = defaultdict(set)
    for path, product in products.items():
        same[product].add(path)
    return Benchmark(
        name="Stanford Online Products",
        protocol="retrieval",
        gallery=tuple(photos),
        queries=tuple(QueryPhoto(photo.id, photo.path, gallery_id=photo.id) for photo in photos),
        truth={
            path: RetrievalTruth(frozenset(same[product] - {path}))
            for path, product in products.items()
        },
        labels=products,
        recalls=(1, 10, 100, 1000),
        depth=1000,
    )


def _read_list(path: Path) -> dict[str, str]:
    """Path -> product of each photo."""
    products: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8") as file:
            lines = limited_lines(file)
            if next(lines, "").split() != _HEADER:
                raise UsageError(f"{path}: its first line must be {' '.join(_HEADER)!r}")
            for line, text in enumerate(lines, start=2):
                if not text.strip():
                    continue
                words = normal_form(text).split()
                if len(words) != len(_HEADER):
                    raise UsageError(f"{path}, line {line}: needs {len(_HEADER)} fields")
                if words[3] in products:
                    raise UsageError(f"{path}, line {line}: {words[3]!r} has a line already")
                products[words[3]] = words[1]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"{path}: not a text file") from None
    if not products:
        raise UsageError(f"{path}: names no photo")
    return products
