"""A cluster of Ray whose nodes are all on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from delg.errors import DelgError, UsageError

_ROOT = Path(__file__).parents[2]
# Bytes that each node keeps in shared memory: queries, and what is said of them.
_SHARED_MEMORY = 200 << 20
_ATTEMPTS = 3


@contextmanager
def ray_cluster(nodes: int) -> Iterator[str | None]:
    """Address of a cluster of so many nodes, which share the processors; None for no nodes.

    Raises:
        UsageError: Ray is not installed.
    """
    if not nodes:
        yield None
        return
    # Workers find this package, and are not the last that the machine works for.
    path = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
    values = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "PYTHONPATH": path}
    with _environment(values), _cluster(nodes) as address:
        yield address


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables of the environment that processes are started in, for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ |= values
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _cluster(nodes: int) -> Iterator[str]:
    try:
        import ray
        from ray.cluster_utils import Cluster
    except ImportError:
        raise UsageError("--nodes needs Ray: pip install 'delg-retrieval[ray]'") from None
    node = {
        "num_cpus": max(1, (os.cpu_count() or 1) // nodes),
        "object_store_memory": _SHARED_MEMORY,
        "include_dashboard": False,
    }
    # Workers are started when they are needed, not before.
    head = {**node, "_system_config": {"prestart_worker_first_driver": False}}
    cluster = _start(lambda: Cluster(initialize_head=True, head_node_args=head))
    try:
        for _ in range(nodes - 1):
            _start(lambda: cluster.add_node(**node))
        yield cluster.address
    finally:
        # This process is a part of the head node.
        ray.shutdown()
        cluster.shutdown()


def _start(start: Callable[[], Any]) -> Any:
    """Start a node, in some attempts: Ray gives a node 30 seconds, which a busy machine exceeds.

    Raises:
        DelgError: it does not start.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return start()
        except Exception as error:  # Ray raises no other.
            if attempt == _ATTEMPTS - 1:
                raise DelgError(f"--nodes: a node of Ray does not start: {error}") from None
