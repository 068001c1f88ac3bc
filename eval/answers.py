"""The answers to a run's queries, kept while it goes on: a run that was stopped continues.

``answers.part`` in the run's folder has one line per query, compressed JSON in base64, behind one
line that says what was asked. It is deleted when the run is complete.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from delg.errors import DelgError
from delg.files import make_folder
from index.results import Ranking

FILE = "answers.part"


@dataclass(frozen=True)
class Answer:
    """What the engine said to one query.

    Attributes:
        rankings: by the name of the list.
        failure: why the query's photo could not be used; empty if it could.
        milliseconds: that it took.
    """

    rankings: Mapping[str, Ranking] = field(default_factory=dict)
    failure: str = ""
    milliseconds: float = 0.0


class AnswerLog:
    """Answers by the id of the query.

    Args:
        known: from an earlier attempt.
        file: to which further ones are added; None keeps them nowhere.
    """

    def __init__(self, known: Mapping[str, Answer], file: IO[bytes] | None) -> None:
        self.known, self._file = known, file

    def add(self, query: str, answer: Answer) -> None:
        """Keep an answer.

        Raises:
            DelgError: it cannot be written.
        """
        if self._file is None:
            return
        try:
            self._file.write(_line([query, _as_json(answer)]))
            self._file.flush()
        except OSError as error:
            raise DelgError(f"{self._file.name}: cannot be written: {error.strerror}") from None


@contextmanager
def answer_log(folder: Path | None, question: object) -> Iterator[AnswerLog]:
    """Open the answers of a run that was stopped, or begin with none.

    Args:
        folder: of the run; None keeps nothing.
        question: plain values of all that answers depend on; those to another question are dropped.

    Raises:
        DelgError: the file cannot be written.
    """
    if folder is None:
        yield AnswerLog({}, None)
        return
    make_folder(folder)
    path = folder / FILE
    digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
    known, size = _read(path, digest)
    try:
        file = path.open("r+b" if size else "wb")
    except OSError as error:
        raise DelgError(f"{path}: cannot be written: {error.strerror}") from None
    with file:
        log = AnswerLog(known, file)
        # What a kill left of a last line goes.
        file.truncate(size)
        file.seek(size)
        if not size:
            file.write(_line(digest))
        yield log


def forget_answers(folder: Path) -> None:
    """Delete what was kept for a run that is complete now."""
    with contextlib.suppress(OSError):
        (folder / FILE).unlink(missing_ok=True)


def _read(path: Path, digest: str) -> tuple[dict[str, Answer], int]:
    """The answers in a file to that question, and the bytes up to the last complete line."""
    answers: dict[str, Answer] = {}
    size = 0
    damage = OSError, ValueError, TypeError, KeyError, RecursionError, zlib.error
    with contextlib.suppress(*damage), path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            value = json.loads(zlib.decompress(base64.b64decode(line)))
            if not size and value != digest:
                break
            if size:
                query, content = value
                answers[query] = _from_json(content)
            size += len(line)
    return answers, size


def _line(value: object) -> bytes:
    return base64.b64encode(zlib.compress(json.dumps(value).encode())) + b"\n"


def _as_json(answer: Answer) -> dict[str, Any]:
    rankings = {
        name: [
            r.ids,
            r.scores.tolist(),
            r.inliers.tolist(),
            r.probabilities.tolist(),
            r.verified.tolist(),
        ]
        for name, r in answer.rankings.items()
    }
    return {
        "rankings": rankings,
        "failure": answer.failure,
        "milliseconds": answer.milliseconds,
    }


def _from_json(content: dict[str, Any]) -> Answer:
    rankings = {
        name: Ranking(
            tuple(ids),
            np.array(scores, np.float32),
            np.array(inliers, np.int32),
            np.array(probabilities, np.float32),
            np.array(verified, bool),
        )
        for name, (ids, scores, inliers, probabilities, verified) in content["rankings"].items()
    }
    return Answer(rankings, content["failure"], content["milliseconds"])
