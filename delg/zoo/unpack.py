"""Unpack a ``.tar.gz`` archive without trusting it."""

from __future__ import annotations

import gzip
import re
import shutil
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path

from delg.errors import DelgError
from delg.limits import MAX_ARCHIVE_BYTES as MAX_BYTES
from delg.limits import MAX_MEMBERS, LimitError, TarStream

_BLOCK = 1 << 20


class BadArchiveError(DelgError):
    """An archive is broken or suspicious; trying again with the same bytes will not help."""


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive as a folder that appears complete or not at all.

    If everything in the archive lies in one folder, that folder's content is what is unpacked. Only
    plain files and folders come out, all of them inside (:func:`tarfile.data_filter`); links and
    devices are refused, as is an archive that would take more than ``MAX_BYTES``.

    Raises:
        BadArchiveError: the archive is broken or suspicious.
        DelgError: the disk is full, or this Python's ``tarfile`` has no filters yet.
    """
    if not hasattr(tarfile, "data_filter"):
        version = ".".join(map(str, sys.version_info[:3]))
        raise DelgError(
            f"{archive}: Python {version} cannot unpack archives safely; use 3.10.12, 3.11.4 or "
            "any later version"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise DelgError(f"{folder.parent}: cannot be written to: {error.strerror}") from None
    try:
        _extract(archive, temporary)
        inside = list(temporary.iterdir())
        source = inside[0] if len(inside) == 1 and inside[0].is_dir() else temporary
        if folder.exists():
            shutil.rmtree(folder)
        source.chmod(0o755)
        source.replace(folder)
    except LimitError as error:
        raise BadArchiveError(f"{archive}: {error}") from None
    except RecursionError:
        raise BadArchiveError(f"{archive}: its headers are nested without end") from None
    except (tarfile.TarError, EOFError, zlib.error, ValueError, OverflowError) as error:
        raise BadArchiveError(f"{archive}: a broken archive ({error})") from None
    except OSError as error:
        # gzip calls a broken stream an OSError without a number.
        if error.errno is None:
            raise BadArchiveError(f"{archive}: a broken archive ({error})") from None
        raise DelgError(f"{folder}: cannot be unpacked: {error.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed attempts to unpack as that folder left; one process at a time."""
    # As mkdtemp names them, so that another folder's name is never taken for one.
    leftover = re.compile(rf"\.{re.escape(folder.name)}\.[a-z0-9_]{{8}}")
    for path in folder.parent.glob(".*"):
        if leftover.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _extract(archive: Path, folder: Path) -> None:
    size = 0
    with (
        gzip.open(archive) as stream,
        tarfile.open(
            fileobj=TarStream(stream),  # type: ignore[call-overload]
            mode="r:",
        ) as tar,
    ):
        for number, member in enumerate(tar):
            # Links that stay inside would pass the filter, and no model needs them.
            if not (member.isfile() or member.isdir()):
                raise BadArchiveError(f"{archive}: {member.name!r} is neither a file nor a folder")
            if member.size < 0:
                raise BadArchiveError(f"{archive}: {member.name!r} has a negative length")
            size += member.size
            if size > MAX_BYTES or number >= MAX_MEMBERS:
                raise BadArchiveError(
                    f"{archive}: would unpack to more than {MAX_BYTES >> 30} GiB or "
                    f"{MAX_MEMBERS:,} files"
                )
            try:
                tar.extract(member, folder, set_attrs=False, filter="data")
            except tarfile.FilterError as error:
                raise BadArchiveError(f"{archive}: {error}") from None
        # The checksum of the stream is at its end, after what tar reads.
        while block := stream.read(_BLOCK):
            size += len(block)
            if size > MAX_BYTES:
                raise BadArchiveError(f"{archive}: does not end")
