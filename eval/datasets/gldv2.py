"""Google Landmarks Dataset v2, retrieval and recognition (Weyand et al., arXiv 2004.01804).

From github.com/cvdfoundation/google-landmark, whose ``download-dataset.sh`` makes this layout::

    train/  train.csv (id,url,landmark_id), train_clean.csv (landmark_id,images), 0/1/2/012….jpg
    index/  index.csv (id,url), a/b/c/abc….jpg
    test/   recognition_solution_v2.1.csv, retrieval_solution_v2.1.csv, a/b/c/abc….jpg

Each photo is called by its id, 16 hexadecimal digits, in folders called by the first three. There
are 4,132,914 train, 761,757 index and 117,577 test photos.

Retrieval: the gallery is index/, the measure mAP@100. ``id,images,Usage``: images are separated by
spaces, "None" for ignored queries. Recognition: the gallery is train/, labels are landmark ids, the
measure GAP. ``id,landmarks,Usage``: landmarks are numbers separated by spaces, any of which is
right; empty where the photo shows no landmark. Usage is Public, Private or Ignored. Submissions are
``id,images`` (best first) and ``id,landmarks`` (``<landmark> <score>``, or empty).
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from delg.errors import UsageError
from delg.images.scan import Photo
from delg.paths import is_file, is_folder
from eval.benchmark import (
    ALL_QUERIES,
    IGNORED_PART,
    Benchmark,
    BenchmarkSpec,
    QueryPhoto,
    RecognitionTruth,
    RetrievalTruth,
    Truth,
)
from eval.datasets.photos import reject_missing
from eval.datasets.tables import read_rows
from eval.predictions import Predictions, plain_ranking

PARTS = ("Public", "Private", IGNORED_PART)
# A submission counts no further.
SUBMITTED_IMAGES = 100
_TREE_DEPTH = 3


def read_retrieval_solution(path: Path) -> dict[str, RetrievalTruth]:
    """Test id -> its relevant index ids and its part, in the file's order.

    Raises:
        UsageError: the file is not a solution; the message names the line.
    """
    truth: dict[str, RetrievalTruth] = {}
    for where, query, images, part in _solution(path, "images"):
        relevant = () if images == "None" else images.split()
        if query in truth:
            raise UsageError(f"{where}: {query!r} has a line already")
        truth[query] = RetrievalTruth(frozenset(relevant), part)
    return truth


def read_recognition_solution(path: Path) -> dict[str, RecognitionTruth]:
    """Test id -> its landmarks, perhaps none, and its part, in the file's order.

    Raises:
        UsageError: the file is not a solution; the message names the line.
    """
    truth: dict[str, RecognitionTruth] = {}
    for where, query, landmarks, part in _solution(path, "landmarks"):
        if query in truth:
            raise UsageError(f"{where}: {query!r} has a line already")
        labels = frozenset(_landmark(word, where) for word in landmarks.split())
        truth[query] = RecognitionTruth(labels, part)
    return truth


def _solution(path: Path, column: str) -> Iterator[tuple[str, str, str, str]]:
    path = Path(path)
    for line, (query, relevant, part) in read_rows(path, ("id", column, "Usage")):
        where = f"{path}, line {line}"
        if not query:
            raise UsageError(f"{where}: no id")
        if part not in PARTS:
            raise UsageError(f"{where}: Usage is {part!r}; it must be {', '.join(PARTS)}")
        yield where, query, relevant, part


def _landmark(text: str, where: str) -> str:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise UsageError(f"{where}: landmark {text[:40]!r} is no number")
    return str(int(text))


def read_retrieval_submission(path: Path) -> dict[str, tuple[str, ...]]:
    """Test id -> index ids, best first, perhaps none.

    Raises:
        UsageError: the file is not a submission; the message names the line.
    """
    path = Path(path)
    rankings: dict[str, tuple[str, ...]] = {}
    for line, (query, images) in read_rows(path, ("id", "images")):
        _reject_repeat(query, rankings, f"{path}, line {line}")
        rankings[query] = tuple(images.split())
    return rankings


def read_recognition_submission(path: Path) -> dict[str, tuple[str, float] | None]:
    """Test id -> (landmark, score), or None without a prediction.

    Raises:
        UsageError: the file is not a submission; the message names the line.
    """
    path = Path(path)
    predictions: dict[str, tuple[str, float] | None] = {}
    for line, (query, landmarks) in read_rows(path, ("id", "landmarks")):
        where = f"{path}, line {line}"
        _reject_repeat(query, predictions, where)
        words = landmarks.split()
        if not words:
            predictions[query] = None
            continue
        if len(words) != 2:
            raise UsageError(f"{where}: {landmarks[:40]!r} is not a landmark and a score")
        predictions[query] = (_landmark(words[0], where), _score(words[1], where))
    return predictions


def _reject_repeat(query: str, queries: Collection[str], where: str) -> None:
    if not query:
        raise UsageError(f"{where}: no id")
    if query in queries:
        raise UsageError(f"{where}: {query!r} has a line already")


def _score(text: str, where: str) -> float:
    try:
        score = float(text)
    except ValueError:
        raise UsageError(f"{where}: score {text[:40]!r} is no number") from None
    if not math.isfinite(score):
        raise UsageError(f"{where}: score {text!r} is not finite")
    return score


def write_retrieval_submission(path: Path, rankings: Mapping[str, Sequence[str]]) -> None:
    """Write the first 100 ids of each ranking, best first.

    Raises:
        ValueError: an id has white space in it, which the format cannot hold.
        UsageError: the file cannot be written.
    """
    rows = []
    for query, images in rankings.items():
        submitted = images[:SUBMITTED_IMAGES]
        _reject_spaces((query, *submitted))
        rows.append((query, " ".join(submitted)))
    _write(path, ("id", "images"), rows)


def write_recognition_submission(
    path: Path, predictions: Mapping[str, tuple[str, float] | None]
) -> None:
    """Write one landmark and its score per query, or nothing if it is None.

    Raises:
        ValueError: a score is not finite, or an id has white space in it.
        UsageError: the file cannot be written.
    """
    rows = []
    for query, prediction in predictions.items():
        if prediction is None:
            _reject_spaces((query,))
            rows.append((query, ""))
            continue
        landmark, score = prediction
        _reject_spaces((query, landmark))
        if not math.isfinite(score):
            raise ValueError(f"The score of query {query!r} is {score}; it must be finite.")
        # float's repr restores the exact number when read.
        rows.append((query, f"{landmark} {float(score)!r}"))
    _write(path, ("id", "landmarks"), rows)


def _reject_spaces(ids: Iterable[str]) -> None:
    for id_ in ids:
        if id_.split() != [id_]:
            raise ValueError(f"Id {id_!r} is empty or has white space in it.")


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    try:
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from None


def read_train_labels(path: Path) -> dict[str, str]:
    """Train id -> landmark, from ``train.csv`` or ``train_clean.csv``, whichever the header says.

    Raises:
        UsageError: it is neither, or an id or a landmark is malformed or repeated.
    """
    path = Path(path)
    labels: dict[str, str] = {}
    # One string per landmark, not one per photo: there are 4.1 million photos.
    landmarks: dict[str, str] = {}
    is_clean = _has_column(path, "images")
    rows = read_rows(
        path, ("images", "landmark_id") if is_clean else ("id", "landmark_id"), ("url",)
    )
    for line, (ids, landmark, _) in rows:
        where = f"{path}, line {line}"
        if landmark not in landmarks:
            landmarks[landmark] = _landmark(landmark, where)
        for image in ids.split() if is_clean else (ids,):
            _reject_repeat(image, labels, where)
            labels[image] = landmarks[landmark]
    return labels


def _has_column(path: Path, column: str) -> bool:
    try:
        with path.open(encoding="utf-8-sig") as file:
            return column in file.readline(1000).strip().split(",")
    except (OSError, UnicodeDecodeError):
        return False  # Reading the rows says why.


class _Tree:
    """The photos of one part of the dataset, a/b/c/abc….jpg, listed in one walk."""

    def __init__(self, root: Path, part: str) -> None:
        self.folder = Path(root).absolute() / part
        if not is_folder(self.folder):
            raise UsageError(f"{self.folder}: no such folder; GLDv2 has train/, index/ and test/")
        self._folders: dict[str, str] = {}
        top = len(self.folder.parts)
        # Links are followed, as trees may be spread over disks; the depth limit ends loops.
        for here, folders, files in os.walk(self.folder, followlinks=True):
            if len(Path(here).parts) - top >= _TREE_DEPTH:
                folders.clear()
            for name in files:
                if name.endswith(".jpg") and not name.startswith("."):
                    self._folders[name[:-4]] = here

    def __contains__(self, image: str) -> bool:
        return image in self._folders

    def path(self, image: str) -> Path:
        return Path(self._folders[image], f"{image}.jpg")

    def keep(self, images: Collection[str], partial: bool) -> list[str]:
        """The ids whose photos exist; without ``partial`` all must."""
        kept = [image for image in images if image in self]
        if len(kept) < len(images) and not partial:
            missing = [image for image in images if image not in self]
            reject_missing(missing, list(images), self.folder)
        return self._reject_none(kept)

    def all(self) -> list[str]:
        return self._reject_none(sorted(self._folders))

    def _reject_none(self, images: list[str]) -> list[str]:
        if not images:
            raise UsageError(f"{self.folder}: none of the photos exists")
        return images


def _queries(root: Path, ids: Collection[str], partial: bool) -> tuple[QueryPhoto, ...]:
    tree = _Tree(root, "test")
    return tuple(QueryPhoto(image, tree.path(image)) for image in tree.keep(ids, partial))


def read_gldv2_retrieval(root: Path, solution: Path, partial: bool = False) -> Benchmark:
    """GLDv2 retrieval: queries from test/, gallery index/.

    The gallery is what ``index.csv`` (in root or index/) lists; without that file it is every photo
    of index/, which must include all that the solution names.

    Args:
        root: the folder of index/ and test/.
        solution: ``retrieval_solution_v2.1.csv``.
        partial: use only the photos that exist, also among the relevant ones; the metric is then
            not comparable with published numbers.

    Raises:
        UsageError: a file is malformed, or photos are missing.
    """
    truth = read_retrieval_solution(solution)
    tree = _Tree(root, "index")
    named = {id_ for t in truth.values() if t.part != IGNORED_PART for id_ in t.relevant}
    listed = _index_list(Path(root))
    if named and not partial:
        tree.keep(sorted(named), partial)
    gallery = tree.all() if listed is None else sorted(tree.keep(listed, partial))
    queries = _queries(root, truth, partial)
    kept_truth = {query.id: truth[query.id] for query in queries}
    if partial:
        kept_truth = {
            query: RetrievalTruth(frozenset(filter(tree.__contains__, t.relevant)), t.part)
            for query, t in kept_truth.items()
        }
    return Benchmark(
        name="GLDv2 retrieval" + partial * " (partial)",
        protocol="retrieval",
        gallery=tuple(Photo(image, tree.path(image)) for image in gallery),
        queries=queries,
        truth=kept_truth,
    )


def _index_list(root: Path) -> list[str] | None:
    for path in (root / "index.csv", root / "index" / "index.csv"):
        if is_file(path):
            return [image for _, (image, _) in read_rows(path, ("id",), ("url",))]
    return None


def read_gldv2_recognition(
    root: Path, solution: Path, train_csv: Path, partial: bool = False
) -> Benchmark:
    """GLDv2 recognition: queries from test/, gallery the photos of train/ that ``train_csv`` names.

    Args:
        root: the folder of train/ and test/.
        solution: ``recognition_solution_v2.1.csv``.
        train_csv: ``train.csv``, or ``train_clean.csv`` for the cleaner 1,580,470 photos.
        partial: use only the photos that exist.

    Raises:
        UsageError: a file is malformed, or photos are missing.
    """
    truth = read_recognition_solution(solution)
    labels = read_train_labels(train_csv)
    tree = _Tree(root, "train")
    gallery = sorted(tree.keep(labels, partial))
    queries = _queries(root, truth, partial)
    return Benchmark(
        name="GLDv2 recognition" + partial * " (partial)",
        protocol="recognition",
        gallery=tuple(Photo(image, tree.path(image)) for image in gallery),
        queries=queries,
        truth={query.id: truth[query.id] for query in queries},
        labels=labels if len(gallery) == len(labels) else {id_: labels[id_] for id_ in gallery},
    )


def retrieval_submission(solution: Path, submission: Path) -> tuple[BenchmarkSpec, Predictions]:
    """A submission to the retrieval track: the benchmark and the predictions.

    Raises:
        UsageError: a file is malformed, or a query is not in the solution.
    """
    truth, rankings = read_retrieval_solution(solution), read_retrieval_submission(submission)
    _reject_unknown_queries(rankings, truth, submission, solution)
    predictions = Predictions({ALL_QUERIES: {q: plain_ranking(r) for q, r in rankings.items()}})
    return _spec("GLDv2 retrieval", "retrieval", truth), predictions


def recognition_submission(solution: Path, submission: Path) -> tuple[BenchmarkSpec, Predictions]:
    """A submission to the recognition track: the benchmark and the predictions."""
    truth, labels = read_recognition_solution(solution), read_recognition_submission(submission)
    _reject_unknown_queries(labels, truth, submission, solution)
    return _spec("GLDv2 recognition", "recognition", truth), Predictions({ALL_QUERIES: {}}, labels)


def _reject_unknown_queries(
    queries: Iterable[str], truth: Collection[str], submission: Path, solution: Path
) -> None:
    for query in queries:
        if query not in truth:
            raise UsageError(f"{submission}: query {query!r} is not in {solution}")


def _spec(name: str, protocol: str, truth: Truth) -> BenchmarkSpec:
    # The queries of a submission are never decoded, so their paths do not matter.
    queries = tuple(QueryPhoto(query, Path(f"{query}.jpg")) for query in truth)
    return BenchmarkSpec(name=name, protocol=protocol, queries=queries, truth=truth)
