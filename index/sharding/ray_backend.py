"""Shards on the machines of a Ray cluster.

Ray places one worker process (an actor) per shard and replica, and starts another in place of one
that dies, on another machine if need be. Workers read the shard from its location, which all
machines must reach. Ray is imported only where it is asked for.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from delg.errors import DelgError, UsageError
from index.image_index import ImageIndex
from index.photos.ingest import AddReport
from index.search.requests import VerifyRequest
from index.search.shard import Answer, Request, ShardLostError
from index.sharding.locations import local_folder
from index.sharding.parts import Operation, Part
from index.sharding.shards import ShardMap
from index.storage.lock import BusyError
from index.verification.matchable import MatchableQuery

if TYPE_CHECKING:
    from index.sharding.assign import AddAssigned, ShardProgress

T = TypeVar("T")
# Seconds that workers have to start and to read their shards.
_OPEN_SECONDS = 300.0
# Queries that one worker answers at once, and requests that it keeps for the next images.
_QUERIES, _KEPT_REQUESTS = 4, 16
# Deaths of one writer, one after the other, that are made up for.
_RESTARTS = 20
# Seconds between two looks at the progress, and for which a new writer waits for the lock of one
# that is dying.
_LOOK_SECONDS, _LOCK_SECONDS = 0.5, 30.0


def connect(address: str) -> Any:
    """The module ``ray``, connected to a cluster.

    Args:
        address: of its head, "HOST:PORT"; "auto": the cluster that this machine belongs to;
            "local": a new one of this machine alone.

    Raises:
        UsageError: Ray is not installed.
        DelgError: there is no such cluster.
    """
    # Ray reports its use to its makers unless told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UsageError(
            "--ray needs Ray, which is not installed: pip install 'delg-retrieval[ray]'"
        ) from None
    if not ray.is_initialized():
        try:
            ray.init(
                address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise DelgError(f"--ray {address}: no such cluster: {error}") from None
    return ray


@dataclass(frozen=True)
class _Place:
    """Where a worker finds its shard."""

    name: str
    location: str
    base: str

    @classmethod
    def of(cls, shards: ShardMap, number: int, folder: Path) -> _Place:
        entry = shards.shards[number]
        return cls(entry.name, entry.location, str(folder.absolute()))

    def open(self, model: str | None = None) -> ImageIndex:
        return ImageIndex.open(local_folder(self.location, Path(self.base)), model)


class _Reader:
    """Worker that answers for one shard."""

    def __init__(self, place: _Place) -> None:
        self._place, self._lock = place, threading.Lock()
        self._opened: ImageIndex | None = None
        self._requests: dict[str, VerifyRequest] = {}

    def _images(self) -> ImageIndex:
        # Not at once, so that an error reaches whoever asks.
        with self._lock:
            if self._opened is None:
                self._opened = self._place.open()
            return self._opened

    def prepare(self) -> None:
        """Open the shard, and be as quick with the first query as with others."""
        self._images().prepare()

    def run(self, operation: Operation[T]) -> T:
        """See :class:`index.sharding.parts.Part`."""
        return operation(self._images())

    def answer(self, request: Request[T]) -> T:
        """See :class:`index.sharding.parts.Part`."""
        return self._images().answer_request(request)

    def verify(self, images: Mapping[str, Any], key: str, sent: list[Any]) -> Any:
        """The answer to a request.

        Args:
            images: similarities and parts, see :class:`index.search.requests.VerifyRequest`.
            key: of the rest of the request, which is the same for all of a query.
            sent: reference of the rest, fetched once, so that the query is projected once.
        """
        with self._lock:
            if key not in self._requests:
                import ray

                self._requests[key] = ray.get(sent[0])
                while len(self._requests) > _KEPT_REQUESTS:
                    self._requests.pop(next(iter(self._requests)))
            request = self._requests[key]
        return self._images().answer_request(replace(request, **images))

    def process(self) -> int:
        """The number of this process."""
        return os.getpid()


class _SentRequests:
    """Requests to verify that were sent to the cluster, without the images: those of a query are
    alike, so that each machine gets one of them."""

    def __init__(self, ray: Any) -> None:
        self._ray, self._lock = ray, threading.Lock()
        # Settings, calibration and reference, as the request itself would keep the query alive.
        self._sent: WeakKeyDictionary[MatchableQuery, tuple[object, object, Any]] = (
            WeakKeyDictionary()
        )

    def reference(self, request: VerifyRequest) -> Any:
        with self._lock:
            settings, calibration, reference = self._sent.get(request.query, (None, None, None))
            if settings is not request.settings or calibration is not request.calibration:
                reference = self._ray.put(replace(request, similarities={}, parts={}))
                self._sent[request.query] = request.settings, request.calibration, reference
            return reference


class RayPart:
    """A shard that workers answer for; see :class:`index.sharding.parts.Part`.

    Args:
        workers: handles of ``_Reader``, any of which can answer.
        deadline: seconds for the answer to a request, by all of them together.
    """

    def __init__(
        self, ray: Any, name: str, workers: list[Any], requests: _SentRequests, deadline: float
    ) -> None:
        self._ray, self.name, self.workers = ray, name, workers
        self._requests, self._deadline, self._turns = requests, deadline, count()

    def run(self, operation: Operation[T]) -> T:
        """See :class:`index.sharding.parts.Part`."""
        result: T = self._ask("run", operation)()
        return result

    def begin(self, request: Request[T]) -> Answer[T]:
        """See :class:`index.sharding.parts.Part`."""
        if not isinstance(request, VerifyRequest):
            return self._ask("answer", request, seconds=self._deadline)
        sent = self._requests.reference(request)
        images = {"similarities": request.similarities, "parts": request.parts}
        return self._ask("verify", images, sent.hex(), [sent], seconds=self._deadline)

    def _ask(self, method: str, *arguments: Any, seconds: float | None = None) -> Answer[Any]:
        """Ask one worker, and another one if it is dead or takes more than its share of time."""
        until = None if seconds is None else time.monotonic() + seconds
        turn, total = next(self._turns), len(self.workers)
        workers = [self.workers[(turn + n) % total] for n in range(total)]
        references = (getattr(worker, method).remote(*arguments) for worker in workers)
        return partial(self._first_answer, next(references), references, until)

    def _first_answer(self, first: Any, others: Iterator[Any], until: float | None) -> Any:
        """The answer of the first worker that gives one.

        Args:
            first: reference of the answer that was asked for.
            others: asks one more worker at each step.
            until: end of the time that all have, by the clock of ``time.monotonic``; None: all.
        """
        reasons = []
        for asked, reference in enumerate(chain([first], others)):
            share = None
            if until is not None:
                share = max(0.0, until - time.monotonic()) / (len(self.workers) - asked)
            try:
                return self._get(reference, share)
            except ShardLostError as error:
                reasons.append(str(error))
        raise ShardLostError("; ".join(dict.fromkeys(reasons)))

    def _get(self, reference: Any, seconds: float | None) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference, timeout=seconds)
        except errors.RayTaskError as error:
            # As raised over there.
            raise error.cause from None
        except errors.GetTimeoutError:
            raise ShardLostError(f"no answer within {seconds:.1f} s") from None
        except errors.RayError as error:
            raise ShardLostError(_reason(error)) from None

    def close(self) -> None:
        """End the workers."""
        for worker in self.workers:
            self._ray.kill(worker)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"its worker is gone ({lines[0] if lines else type(error).__name__})"


def open_parts(
    address: str, folder: Path, shards: ShardMap
) -> tuple[dict[int, Part], dict[int, str]]:
    """Start the workers of all shards, and wait until each shard has one.

    Returns:
        The shards by number, and number -> reason of those that no worker can open.
    """
    ray = connect(address)
    requests = _SentRequests(ray)
    worker_type = ray.remote(_Reader).options(
        max_restarts=-1, max_concurrency=_QUERIES, scheduling_strategy="SPREAD"
    )
    parts = {
        number: RayPart(
            ray,
            entry.name,
            [worker_type.remote(_Place.of(shards, number, folder)) for _ in range(shards.replicas)],
            requests,
            shards.deadline_seconds,
        )
        for number, entry in enumerate(shards.shards)
    }
    ready = {n: [worker.prepare.remote() for worker in part.workers] for n, part in parts.items()}
    until, missing = time.monotonic() + _OPEN_SECONDS, {}
    for number, references in ready.items():
        problem = _first_problem(parts[number], references, until)
        if problem is not None:
            missing[number] = problem
            parts.pop(number).close()
    return dict(parts), missing


def _first_problem(part: RayPart, references: list[Any], until: float) -> str | None:
    """Why no worker is ready; None if one is."""
    problem = None
    for reference in references:
        try:
            part._get(reference, max(0.0, until - time.monotonic()))
            return None
        except (DelgError, OSError) as error:
            problem = problem or str(error)
    return problem


class _Writer:
    """Worker that writes one shard."""

    def __init__(self, place: _Place, model: str | None) -> None:
        self._place, self._model = place, model
        self._progress = (0, 0, 0)

    def add(self, task: AddAssigned) -> AddReport:
        """Bring the shard up to date; what an earlier worker committed is not done again."""
        until = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                with self._place.open(self._model) as images:
                    return task(images, self._report)
            except BusyError:
                if time.monotonic() > until:
                    raise
                time.sleep(_LOOK_SECONDS)

    def _report(self, done: int, total: int, failed: int) -> None:
        self._progress = done, total, failed

    def progress(self) -> tuple[int, int, int]:
        """Done, total and failed photos."""
        return self._progress

    def process(self) -> int:
        """The number of this process."""
        return os.getpid()


class RayWriters:
    """Writes all shards at once, each by a worker of its own; see
    :class:`index.sharding.assign.Writers`.

    Args:
        address: see :func:`connect`.
        folder: of the sharded index.
        shards: of it.
        model: by which workers find the index's model, where it is not one that ships.
    """

    def __init__(self, address: str, folder: Path, shards: ShardMap, model: str | None) -> None:
        self._ray, self._folder, self._shards = connect(address), folder, shards
        self._model = model
        self.workers: dict[int, Any] = {}

    def run(
        self, tasks: Mapping[int, AddAssigned], progress: ShardProgress
    ) -> dict[int, AddReport]:
        """See :class:`index.sharding.assign.Writers`."""
        worker_type = self._ray.remote(_Writer).options(
            num_cpus=1,
            max_restarts=_RESTARTS,
            max_task_retries=_RESTARTS,
            # Progress is asked while a worker works.
            max_concurrency=2,
            scheduling_strategy="SPREAD",
        )
        self.workers = {
            number: worker_type.remote(_Place.of(self._shards, number, self._folder), self._model)
            for number in tasks
        }
        reports = {number: self.workers[number].add.remote(task) for number, task in tasks.items()}
        try:
            return self._wait(reports, progress)
        finally:
            for worker in self.workers.values():
                self._ray.kill(worker)

    def _wait(self, reports: Mapping[int, Any], progress: ShardProgress) -> dict[int, AddReport]:
        """The reports, as they come."""
        pending = {reference: number for number, reference in reports.items()}
        looks = {number: self.workers[number].progress.remote() for number in reports}
        done: dict[int, AddReport] = {}
        while pending:
            ready, _ = self._ray.wait(list(pending), timeout=_LOOK_SECONDS)
            for reference in ready:
                number = pending.pop(reference)
                done[number] = self._report(reference, number)
                # Its processor is free for the next.
                self._ray.kill(self.workers[number])
                looks.pop(number)
            self._look(looks, progress)
        return done

    def _look(self, looks: dict[int, Any], progress: ShardProgress) -> None:
        """Pass on the progress that has arrived, and ask again."""
        if not looks:
            return
        numbers = {reference: number for number, reference in looks.items()}
        arrived, _ = self._ray.wait(list(numbers), num_returns=len(numbers), timeout=0)
        for reference in arrived:
            number = numbers[reference]
            looks[number] = self.workers[number].progress.remote()
            try:
                progress(number, *self._ray.get(reference))
            except self._ray.exceptions.RayError:
                continue  # It is being replaced.

    def _report(self, reference: Any, number: int) -> AddReport:
        errors = self._ray.exceptions
        try:
            report: AddReport = self._ray.get(reference)
            return report
        except errors.RayTaskError as error:
            raise error.cause from None
        except errors.RayError as error:
            name = self._shards.shards[number].name
            raise DelgError(
                f"{self._folder}: shard {name}: {_reason(error)} more than {_RESTARTS} times; what "
                "was committed is kept, and the same command goes on from there"
            ) from None
