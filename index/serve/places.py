"""Places for what clients do at once: nobody can take all of them.

A client may take any number of places while there are free ones. When none is left, who has none
still gets one, up to twice the number of places.
"""

from __future__ import annotations

import ipaddress
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from delg.errors import DelgError

# A network of this length is one client: whoever has an IPv6 address has such a network.
_IPV6_PREFIX = 64


class TooBusyError(DelgError):
    """No place is free, or a job took too long; worth another try later."""


def client_of(scope: Mapping[str, Any]) -> str:
    """Who sends a request: its address, or the network of an IPv6 address."""
    return network_of(scope["client"][0] if scope.get("client") else "")


def network_of(address: str) -> str:
    """An IPv4 address, or the network of an IPv6 address; other names as they are."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, _IPV6_PREFIX), strict=False))
    return address


class Places:
    """A number of places.

    Args:
        capacity: places, and as many more for clients that have none.
        refusal: what to say where there is none left.
    """

    def __init__(self, capacity: int, refusal: str) -> None:
        self._capacity, self._refusal = capacity, refusal
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        """Places that are taken."""
        return self._taken.total()

    def take(self, client: str) -> None:
        """Take a place.

        Raises:
            TooBusyError: there is none for that client.
        """
        with self._lock:
            total = self._taken.total()
            is_full = total >= self._capacity
            if is_full and (self._taken[client] or total >= 2 * self._capacity):
                raise TooBusyError(self._refusal)
            self._taken[client] += 1

    def leave(self, client: str) -> None:
        """Give a place back."""
        with self._lock:
            self._taken[client] -= 1
            if not self._taken[client]:
                del self._taken[client]

    @contextmanager
    def place(self, client: str) -> Iterator[None]:
        """A place for the time of the block.

        Raises:
            TooBusyError: there is none for that client.
        """
        self.take(client)
        try:
            yield
        finally:
            self.leave(client)
