"""Settings of the server. Every default lives here."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from delg.errors import UsageError
from delg.settings import Settings

MIB = 1 << 20
_MIN_TOKEN = 12


class ServeSettings(Settings):
    """Access to the server, and limits on requests."""

    # Address to listen at.
    host: str = "127.0.0.1"
    # Port to listen at; 0 picks a free one.
    port: int = Field(8000, ge=0, le=65535)
    # Required from every client, if set.
    token: str | None = None
    # Serve without a token on a host that other machines can reach.
    no_auth: bool = False
    # Further host names that requests may be addressed to.
    allow_hosts: tuple[str, ...] = ()
    # Allow adding and removing photos.
    writable: bool = False
    # SQLite file of saved searches; by default inside the index.
    saved: Path | None = None
    # Searches that can be saved; 0: none.
    saved_searches: int = Field(1000, ge=0)
    # MiB that saved searches may take, with their photos.
    saved_mib: int = Field(1024, ge=0)
    # Days after which a saved search is deleted; 0: never.
    saved_days: float = Field(90.0, ge=0)
    # Address of map tiles with {z}, {x} and {y}, https; by default a plain outline is drawn.
    tiles: str | None = None
    # What the makers of the tiles want to be named as.
    tiles_credit: str = ""
    # Size of an uploaded photo, in MiB.
    max_upload_mib: int = Field(32, ge=1)
    # Seconds to receive the head of a request.
    head_seconds: float = Field(20.0, gt=0)
    # Seconds for the client to read a response.
    answer_seconds: float = Field(60.0, gt=0)
    # Uploads received at once.
    uploads: int = Field(16, ge=1)
    # Seconds that an upload may take.
    upload_seconds: float = Field(30.0, gt=0)
    # KiB per second from which on an upload may take longer.
    upload_pace_kib: float = Field(32.0, gt=0)
    # Queries run at once; by default one per core.
    workers: int = Field(default_factory=lambda: max(1, os.cpu_count() or 1), ge=1)
    # Queries that may wait; beyond that the answer is 503.
    queue: int = Field(16, ge=0)
    # Thumbnails that may wait; a page asks for dozens.
    thumbnail_queue: int = Field(512, ge=0)
    # Seconds that one query may wait and run.
    seconds: float = Field(30.0, gt=0)
    # Batches of queries that may be worked on at once.
    batches: int = Field(8, ge=1)
    # Photos of one batch, at most.
    batch_photos: int = Field(200, ge=1)
    # Size of all photos of one batch, in MiB.
    batch_mib: int = Field(256, ge=1)
    # Seconds that decoding one photo may take.
    decode_seconds: float = Field(10.0, gt=0)
    # Requests of any kind at once. When so many are there, clients that have none are still served,
    # up to twice the number; so it is with uploads, queries and connections.
    requests: int = Field(256, ge=1)
    # Connections at once; at most a third of the files that the system lets the server open.
    connections: int = Field(512, ge=1)
    # Memory for cached thumbnails, in MiB.
    thumbnail_mib: int = Field(64, ge=0)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the host."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @field_validator("tiles")
    @classmethod
    def _check_tiles(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        is_plain = value.isascii() and not set(value) & set(" ;,'\"")
        if parts.scheme != "https" or not parts.hostname or not is_plain:
            raise ValueError(
                "must be an address with https, such as https://tiles.example/{z}/{x}/{y}.png"
            )
        if not all(part in value for part in ("{z}", "{x}", "{y}")):
            raise ValueError("must contain {z}, {x} and {y}")
        return value

    def check(self) -> None:
        """Refuse settings that open the index to a network by accident.

        Raises:
            UsageError: the host needs a token, or the token can be guessed.
        """
        if self.token is not None and len(self.token) < _MIN_TOKEN:
            raise UsageError(
                f"--token: needs at least {_MIN_TOKEN} characters; create one with "
                "python3 -c 'import secrets; print(secrets.token_urlsafe())'"
            )
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise UsageError("--token: only printable ASCII characters are allowed")
        if not self.is_local and self.token is None and not self.no_auth:
            raise UsageError(
                f"--host {self.host} can be reached by other machines: set --token, or "
                "--no-auth to serve everyone who can reach it"
            )
