"""The photos of IIIF manifests and collections, on this machine and behind URLs.

A manifest names its photos by image services, which send them in the size that is asked for; label
and metadata come with it. Collections name manifests and collections. Each document is read with
limits, and only web servers are asked, whatever URLs it names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from delg.errors import UsageError
from delg.images.iiif_image import ImageService, service_of
from delg.images.iiif_manifest import (
    CanvasImage,
    canvas_images,
    id_of,
    kind_of_document,
    members,
)
from delg.images.scan import Photo, Walk
from delg.limits import MAX_MANIFEST_BYTES, MAX_MANIFESTS, LimitError
from delg.plain_values import parse_json
from delg.remote_path import Location, RemotePath, is_web_url
from delg.types import Failure

_NO_IMAGE = "canvases without an image"
# Requests for info.json that wait for an answer at once.
_REQUESTS = 8


def iiif_photos(source: Location, walk: Walk) -> Iterator[Photo]:
    """The photos of a manifest, a collection, or an image's ``info.json``.

    Their ids are those of their canvases, without ``https://``.

    Args:
        walk: records the members of a collection that cannot be used, and counts canvases without
            a photo.

    Raises:
        UsageError: it cannot be read, or is nothing of IIIF.
    """
    try:
        document = read_document(source)
        if not kind_of_document(document):
            raise LimitError("is no IIIF manifest, collection or info.json")
    except FileNotFoundError:
        raise UsageError(f"{source}: no such folder or file") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{source}: {_reason(error)}") from None
    for url, opened in _documents(document, str(source), walk):
        try:
            yield from _photos_of(opened, url, walk)
        except ValueError as error:
            walk.failures.append(Failure(url, f"not a usable manifest: {error}"))


def read_document(source: Location) -> Any:
    """The JSON at a place.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, or too large.
    """
    data = bytearray()
    for block in _blocks(source):
        data += block
        if len(data) > MAX_MANIFEST_BYTES:
            raise LimitError(f"has more than {MAX_MANIFEST_BYTES:,} bytes")
    return parse_json(bytes(data))


def _blocks(source: Location) -> Iterator[bytes]:
    if isinstance(source, RemotePath):
        from delg.remote_files import read_blocks

        yield from read_blocks(source)
        return
    with Path(source).open("rb") as file:
        yield file.read(MAX_MANIFEST_BYTES + 1)


def _documents(
    document: Mapping[str, Any], origin: str, walk: Walk
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The manifests and image services in a document, with their URLs; collections are opened."""
    waiting: list[tuple[str, Mapping[str, Any] | None]] = [(origin, document)]
    visited = {origin, id_of(document)}
    while waiting:
        url, opened = waiting.pop(0)
        if opened is None:
            opened = _read_member(url, walk)
        if opened is None:
            continue
        if kind_of_document(opened) in ("Manifest", "Service"):
            yield url, opened
            continue
        for member in members(opened):
            name = id_of(member)
            if name in visited:
                continue
            if len(visited) > MAX_MANIFESTS:
                reason = f"more than {MAX_MANIFESTS:,} manifests; the rest is left out"
                walk.failures.append(Failure(origin, reason))
                return
            visited.add(name)
            waiting.append((name, None if isinstance(member, str) else member))


def _read_member(url: str, walk: Walk) -> Mapping[str, Any] | None:
    try:
        # What a stranger's collection names may not be a file of this machine.
        if not is_web_url(url):
            raise LimitError("is not on a web server")
        document = read_document(RemotePath.parse(url))
        if not kind_of_document(document):
            raise LimitError("is no IIIF manifest or collection")
    except (OSError, ValueError, UsageError) as error:
        walk.failures.append(Failure(url, _reason(error)))
        return None
    opened: Mapping[str, Any] = document
    return opened


def _photos_of(document: Mapping[str, Any], url: str, walk: Walk) -> Iterator[Photo]:
    if kind_of_document(document) == "Service":
        service_url = ImageService.parse(document).url
        image = CanvasImage(
            service_url.partition("://")[2], {"service": document}, None,
            {"source_url": service_url},
        )  # fmt: skip
        images: list[CanvasImage] = [image]
    else:
        images = []
        for each in canvas_images(document, url):
            if isinstance(each, str):
                walk.passed_over[_NO_IMAGE] += 1
            else:
                images.append(each)
    with ThreadPoolExecutor(_REQUESTS) as pool:
        addresses = pool.map(_address, images)
        for image, address in zip(images, addresses, strict=True):
            if isinstance(address, Failure):
                walk.failures.append(address)
            else:
                yield Photo(image.id, address, label=image.label, metadata=image.metadata)


def _address(image: CanvasImage) -> RemotePath | Failure:
    """Where the photo is: at its image service in a bounded size, or at its own URL."""
    try:
        service = service_of(image.resource)
        if service is not None and service.needs_info:
            service = _by_info(service)
        url = "" if service is None else service.photo_url(image.region, image.rotation)
        url = url or id_of(image.resource)
        if not is_web_url(url):
            raise LimitError("the manifest names no photo on a web server")
        return RemotePath.parse(url)
    except (ValueError, UsageError) as error:
        return Failure(image.id, _reason(error))


def _by_info(service: ImageService) -> ImageService:
    """What the service itself says; as it was if it does not answer."""
    try:
        document = read_document(RemotePath.parse(f"{service.url}/info.json"))
        return ImageService.parse(document) if kind_of_document(document) == "Service" else service
    except (OSError, ValueError, UsageError):
        return service


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    return str(error)
