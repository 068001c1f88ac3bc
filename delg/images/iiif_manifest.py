"""Manifests of the IIIF Presentation API, 2.x and 3.0: the photos of an object, and what is known
of it. Nothing here connects to anything; :mod:`delg.images.scan_iiif` does.

https://iiif.io/api/presentation/3.0, https://iiif.io/api/presentation/2.1
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import count
from typing import Any

from delg.limits import LimitError
from delg.remote_path import is_web_url

# Keys of the metadata that every photo of a manifest has.
MANIFEST, CANVAS, SOURCE_URL = "iiif_manifest", "iiif_canvas", "source_url"
# What is kept of a manifest's texts.
_MAX_TEXT, _MAX_ENTRIES, _MAX_URL = 2_000, 60, 4_000
# Languages that are preferred; "none" and "@none" are texts without one.
_LANGUAGES = ("en", "none", "@none", "")
_SPACE = re.compile(r"\s+")
_KINDS = ("Manifest", "Collection")
_REGION = re.compile(r"square|(pct:)?\d+(\.\d+)?(,\d+(\.\d+)?){3}")
_ROTATION = re.compile(r"!?(0|90|180|270)")
_PAINTING = ("painting", "sc:painting", "oa:painting")


@dataclass(frozen=True)
class CanvasImage:
    """A photo that is painted on a canvas.

    Attributes:
        id: of the canvas, without ``https://``; a second photo on it ends with ``~2``.
        resource: the JSON of the image: its URL, its size and its services.
        label, metadata: of the manifest, with the canvas's name and addresses.
        region: the part of the image that is shown, as the Image API writes it; empty: all of it.
        rotation: of the image where it is shown, as the Image API writes it: quarter turns
            clockwise in degrees, mirrored before that by "!".
    """

    id: str
    resource: Mapping[str, Any]
    label: str | None
    metadata: Mapping[str, str] = field(default_factory=dict)
    region: str = ""
    rotation: str = "0"


def kind_of_document(document: object) -> str:
    """ "Manifest", "Collection", "Service" (an info.json), or "" for anything else."""
    if not isinstance(document, dict):
        return ""
    kind = str(document.get("type") or document.get("@type") or "").rpartition(":")[2]
    if kind in _KINDS:
        return kind
    is_service = document.get("protocol") == "http://iiif.io/api/image"
    return "Service" if is_service or kind.startswith("ImageService") else ""


def id_of(value: object) -> str:
    """The id of a resource, which may be given by its id alone; empty if there is none."""
    if isinstance(value, dict):
        value = value.get("id") or value.get("@id")
    return _SPACE.sub("", _encodable(value)) if isinstance(value, str) else ""


def members(collection: Mapping[str, Any]) -> Iterator[Mapping[str, Any] | str]:
    """The manifests and collections in a collection, as it has them: by id, or as a whole.

    Pages of a collection in version 2 are members too.
    """
    for key in ("items", "members", "collections", "manifests", "first", "next"):
        for member in _list(collection.get(key)):
            if isinstance(member, dict) and (member.get("items") or member.get("sequences")):
                yield member
            elif id_of(member):
                yield id_of(member)


def canvas_images(manifest: Mapping[str, Any], url: str) -> Iterator[CanvasImage | str]:
    """The photos of a manifest, in its order; for a canvas without one, its id.

    Args:
        url: where the manifest was found, if it does not say its id.

    Raises:
        LimitError: it is of another form.
    """
    about = _facts_of(manifest, url)
    label = _text(manifest.get("label")) or None
    for canvas in _canvases(manifest):
        canvas_id = id_of(canvas)
        if not canvas_id:
            raise LimitError("has a canvas without an id")
        metadata = dict(about)
        if name := _text(canvas.get("label")):
            metadata["canvas"] = name
        metadata.update(_entries(canvas.get("metadata")))
        metadata.update(_links(manifest, canvas, url))
        image_id = re.sub(r"^\w+://", "", canvas_id)
        numbers = count(1)
        for resource, region, rotation in _painted(canvas):
            number = next(numbers)
            suffix = f"~{number}" if number > 1 else ""
            yield CanvasImage(image_id + suffix, resource, label, metadata, region, rotation)
        if next(numbers) == 1:
            yield canvas_id


def _canvases(manifest: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    sequences = _list(manifest.get("sequences"))[:1]  # The others order the same canvases anew.
    lists = [manifest.get("items")] + [each.get("canvases") for each in _dicts(sequences)]
    for canvases in lists:
        yield from _dicts(canvases)


def _painted(canvas: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str, str]]:
    """The images on a canvas, and the region and rotation of each that is shown."""
    annotations = [
        annotation
        for page in _dicts(canvas.get("items"))
        for annotation in _dicts(page.get("items"))
    ] + list(_dicts(canvas.get("images")))
    for annotation in annotations:
        motivations = _list(annotation.get("motivation"))
        if motivations and not set(map(str, motivations)) & set(_PAINTING):
            continue
        for body in _list(annotation.get("body")) + _list(annotation.get("resource")):
            image = _image_of(body)
            if image is not None:
                yield image


def _image_of(body: object) -> tuple[Mapping[str, Any], str, str] | None:
    """The image in the body of an annotation: itself, a part of it, or the first to choose."""
    region, rotation = "", "0"
    for _ in range(4):  # A choice of a part of an image is as deep as they go.
        if not isinstance(body, dict):
            return None
        kind = str(body.get("type") or body.get("@type") or "").rpartition(":")[2]
        if kind == "Choice":
            body = body.get("default") or next(iter(_list(body.get("items"))), None)
        elif kind == "SpecificResource":
            region = _select(body, "region", _REGION) or region
            rotation = _select(body, "rotation", _ROTATION) or rotation
            body = body.get("source") or body.get("full")
        else:
            return (body, region, rotation) if kind == "Image" or body.get("service") else None
    return None


def _select(resource: Mapping[str, Any], key: str, form: re.Pattern[str]) -> str:
    """What the selector of an image says under a key; empty if it is of another form."""
    selector = resource.get("selector")
    value = selector.get(key) if isinstance(selector, dict) else None
    return str(value) if value is not None and form.fullmatch(str(value)) else ""


def _facts_of(manifest: Mapping[str, Any], url: str) -> dict[str, str]:
    """What a manifest says of its object, by name."""
    facts = _entries(manifest.get("metadata"))
    facts.update(_entries(manifest.get("requiredStatement")))
    for key in ("attribution", "summary", "description", "rights", "license"):
        if text := _text(manifest.get(key)):
            facts.setdefault(key, text)
    return facts


def _entries(pairs: object) -> dict[str, str]:
    """Pairs of label and value; values of one name are joined."""
    entries: dict[str, str] = {}
    for pair in list(_dicts(pairs))[:_MAX_ENTRIES]:
        name, value = _text(pair.get("label")), _text(pair.get("value"))
        if name and value:
            entries[name] = f"{entries[name]}; {value}"[:_MAX_TEXT] if name in entries else value
    return entries


def _links(manifest: Mapping[str, Any], canvas: Mapping[str, Any], url: str) -> dict[str, str]:
    """The addresses of a photo: of its manifest and canvas, and the page that people look at."""
    manifest_id = id_of(manifest) or url
    # Version 3: homepage; version 2: related.
    pages = [
        *_list(canvas.get("homepage")), *_list(manifest.get("homepage")),
        *_list(canvas.get("related")), *_list(manifest.get("related")),
    ]  # fmt: skip
    links = {MANIFEST: manifest_id, CANVAS: id_of(canvas)}
    page_url = next((id_of(page) for page in pages if is_web_url(id_of(page))), "")
    links[SOURCE_URL] = page_url or (manifest_id if is_web_url(manifest_id) else "")
    return {key: value for key, value in links.items() if value and len(value) <= _MAX_URL}


def _text(value: object) -> str:
    """A text in the preferred language, without markup; several values are joined."""
    if isinstance(value, dict) and "@value" not in value:
        language = next((each for each in _LANGUAGES if each in value), next(iter(value), ""))
        value = value.get(language)
    parts = _in_language(_list(value))
    return "; ".join(filter(None, map(_plain, parts)))[:_MAX_TEXT]


def _in_language(values: list[Any]) -> list[Any]:
    """The values of version 2, of which those with a language are objects."""
    by_language: dict[str, list[Any]] = {}
    for value in values:
        language = str(value.get("@language") or "") if isinstance(value, dict) else ""
        text = value.get("@value") if isinstance(value, dict) else value
        by_language.setdefault(language, []).append(text)
    chosen = next((each for each in _LANGUAGES if each in by_language), next(iter(by_language), ""))
    return by_language.get(chosen, [])


def _plain(value: object) -> str:
    if not isinstance(value, (str, int, float)):
        return ""
    text = _encodable(str(value)[: 4 * _MAX_TEXT])
    if "<" in text:
        text = _without_markup(text)
    return _SPACE.sub(" ", "".join(c if c.isprintable() else " " for c in text)).strip()


def _without_markup(text: str) -> str:
    parser = _TextOnly()
    parser.feed(text)
    parser.close()
    return "".join(parser.parts)


class _TextOnly(HTMLParser):
    """Keeps the text of the markup that manifests may have in their values."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("br", "p"):
            self.parts.append(" ")


def _encodable(text: str) -> str:
    """A text without halves of characters, which JSON may have and no database takes."""
    return text.encode("utf-8", "replace").decode()


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _dicts(value: object) -> Iterator[dict[str, Any]]:
    return (each for each in _list(value) if isinstance(each, dict))
