"""Settings of the server. Every default lives here."""

from __future__ import annotations

import ipaddress
import os

from pydantic import Field

from delg.errors import UsageError
from delg.settings import Settings

MIB = 1 << 20
_SHORTEST_TOKEN = 12


class ServeSettings(Settings):
    """Who may come, and how much they may ask for."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    # Asked of everyone, if set.
    token: str | None = None
    # Lets anyone in who can reach a host that is not this machine alone.
    no_auth: bool = False
    # Further names under which browsers may call a server that is bound to this machine.
    allow_hosts: tuple[str, ...] = ()
    # Photos can be added and removed.
    writable: bool = False
    max_upload_mib: int = Field(32, ge=1)
    # Seconds until the head of a request is there, and until an answer has been taken.
    head_seconds: float = Field(20.0, gt=0)
    answer_seconds: float = Field(60.0, gt=0)
    # Uploads being received at once.
    uploads: int = Field(16, ge=1)
    # How long one may take, and the pace, in KiB a second, that earns it more.
    upload_seconds: float = Field(30.0, gt=0)
    upload_pace_kib: float = Field(32.0, gt=0)
    # Queries worked on at once, and those that may wait; beyond that the answer is 503.
    workers: int = Field(default_factory=lambda: max(1, os.cpu_count() or 1), ge=1)
    queue: int = Field(16, ge=0)
    # Waiting and work of one query together.
    seconds: float = Field(30.0, gt=0)
    # Requests of any kind at once.
    requests: int = Field(256, ge=1)
    # Bytes of small pictures that are kept in memory.
    thumbnail_mib: int = Field(64, ge=0)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def check(self) -> None:
        """Make sure that nobody opens the index to a network by accident.

        Raises:
            UsageError: the host needs a token, or the token can be guessed.
        """
        if self.token is not None and len(self.token) < _SHORTEST_TOKEN:
            raise UsageError(
                f"--token: needs {_SHORTEST_TOKEN} characters or more; make one with "
                "python3 -c 'import secrets; print(secrets.token_urlsafe())'"
            )
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise UsageError("--token: only printable ASCII characters fit into a header")
        if not self.is_local and self.token is None and not self.no_auth:
            raise UsageError(
                f"--host {self.host} can be reached by other machines: set --token, or say "
                "--no-auth to let in everyone who can reach it"
            )
