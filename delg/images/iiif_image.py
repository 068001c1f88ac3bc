"""URLs of the IIIF Image API, 1.1 to 3.0: a photo in the size that is wanted.

https://iiif.io/api/image/3.0, https://iiif.io/api/image/2.1
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from delg.images.iiif_manifest import id_of
from delg.limits import LimitError

# The longest side that is asked for, in pixels; networks take smaller ones.
LONGEST_SIDE = 1600
_MAX_SIDE = 1_000_000
_VERSION_IN_CONTEXT = re.compile(r"image(?:-api)?/(\d)")
_LEVEL = re.compile(r"level(\d)")
# {identifier}/{region}/{size}/{rotation}/{quality}.{format}
_IMAGE_URL = re.compile(
    r"/(full|square|(?:pct:)?[\d.]+(?:,[\d.]+){3})/(\^?(?:full|max|pct:[\d.]+|!?\d*,\d*))"
    r"/!?[\d.]+/(default|native|color|colour|gray|grey|bitonal)(\.\w+)?$"
)


@dataclass(frozen=True)
class ImageService:
    """What is known of a server's image.

    Attributes:
        url: of the image, without size and format.
        version: of the Image API: 1, 2 or 3.
        level: of compliance; 0: only some sizes are served.
        width, height: of the image in full, pixels; 0: not known.
        sizes: (width, height) that the server prefers.
        max_width, max_height, max_area: of what it sends; 0: not known.
    """

    url: str
    version: int
    level: int
    width: int = 0
    height: int = 0
    sizes: tuple[tuple[int, int], ...] = ()
    max_width: int = 0
    max_height: int = 0
    max_area: int = 0

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> ImageService:
        """From an ``info.json``, or from what a manifest says of a service.

        Raises:
            LimitError: it has no id.
        """
        url = id_of(values).rstrip("/")
        if not url:
            raise LimitError("has an image service without an id")
        profile = values.get("profile")
        profiles = profile if isinstance(profile, list) else [profile]
        level = next((_LEVEL.search(each) for each in profiles if isinstance(each, str)), None)
        more = [each for each in profiles if isinstance(each, dict)]
        width, height, max_width, max_height, max_area = (
            _number(next((each[key] for each in (values, *more) if key in each), 0))
            for key in ("width", "height", "maxWidth", "maxHeight", "maxArea")
        )
        return cls(
            url, _version(values, profiles), int(level[1]) if level else 0, width, height,
            _sizes(values.get("sizes")), max_width, max_height or max_width, max_area,
        )  # fmt: skip

    @property
    def needs_info(self) -> bool:
        """Whether the URL of a photo cannot be told without its ``info.json``."""
        return not (self.width and self.height) if self.level else not self.sizes

    def photo_url(
        self, region: str = "", rotation: str = "0", longest_side: int = LONGEST_SIDE
    ) -> str:
        """The address of the photo; empty if that cannot be told.

        Args:
            region: the part of it, as the Image API writes it; empty: all of it.
            rotation: as the Image API writes it; below level 2 photos come as they are.
            longest_side: of the photo, at most, in pixels.
        """
        size = self._size(longest_side) if not region else self._size_of_region(longest_side)
        quality = "native" if self.version == 1 else "default"
        turned = rotation if self.level > 1 else "0"
        return f"{self.url}/{region or 'full'}/{size}/{turned}/{quality}.jpg" if size else ""

    def _size_of_region(self, longest_side: int) -> str:
        return f"!{longest_side},{longest_side}" if self.level > 1 else self._all_of_it

    @property
    def _all_of_it(self) -> str:
        return "max" if self.version > 2 else "full"

    def _size(self, longest_side: int) -> str:
        if self.level == 0:
            return self._size_served(longest_side)
        if not (self.width and self.height):
            return ""
        share = self._share(longest_side)
        if share >= 1:
            return self._all_of_it
        width, height = (max(1, math.floor(side * share)) for side in (self.width, self.height))
        return self._as_text(width, height)

    def _size_served(self, longest_side: int) -> str:
        """The smallest of the sizes that is large enough, or the largest."""
        by_side = sorted(self.sizes, key=max)
        if not by_side:
            return ""
        chosen = next((size for size in by_side if max(size) >= longest_side), by_side[-1])
        if chosen == (self.width, self.height):
            return self._all_of_it
        return self._as_text(*chosen)

    def _share(self, longest_side: int) -> float:
        """By how much the image is reduced."""
        shares = [longest_side / max(self.width, self.height)]
        shares += [self.max_width / self.width] if self.max_width else []
        shares += [self.max_height / self.height] if self.max_height else []
        area = self.width * self.height
        shares += [math.sqrt(self.max_area / area)] if self.max_area else []
        return min(shares)

    def _as_text(self, width: int, height: int) -> str:
        # The form that each version calls canonical, which servers keep ready.
        return f"{width},{height}" if self.version > 2 else f"{width},"


def service_of(resource: Mapping[str, Any]) -> ImageService | None:
    """The image service of an image in a manifest, if there is one.

    Raises:
        LimitError: it has no id.
    """
    services = resource.get("service")
    for values in services if isinstance(services, list) else [services]:
        if isinstance(values, dict) and _is_image_service(values):
            sizes = {key: resource[key] for key in ("width", "height") if key in resource}
            return ImageService.parse({**sizes, **values})
    return None


def _is_image_service(values: Mapping[str, Any]) -> bool:
    kind = str(values.get("type") or values.get("@type") or "")
    texts = (*_strings(values.get("@context")), *_strings(values.get("profile")))
    # Searches and logins are services too.
    return kind.startswith("ImageService") or any("image" in t for t in texts if "/auth/" not in t)


def _version(values: Mapping[str, Any], profiles: list[Any]) -> int:
    kind = str(values.get("type") or values.get("@type") or "")
    if kind[:-1] == "ImageService" and kind[-1:] in "123":
        return int(kind[-1])
    texts = [*_strings(values.get("@context")), *_strings(profiles)]
    matches = [match for text in texts if (match := _VERSION_IN_CONTEXT.search(text))]
    return min(3, max(1, int(matches[0][1]))) if matches else 2


def _strings(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, str)]


def _number(value: object) -> int:
    return value if type(value) is int and 0 < value <= _MAX_SIDE**2 else 0


def _sizes(values: object) -> tuple[tuple[int, int], ...]:
    sizes = [
        (_number(size.get("width")), _number(size.get("height")))
        for size in (values if isinstance(values, list) else ())
        if isinstance(size, dict)
    ]
    return tuple(size for size in sizes if min(size) and max(size) <= _MAX_SIDE)


def image_of_url(url: str) -> str:
    """The name of the image in a URL of the Image API, as ``prefix/identifier``; empty for others.

    All of them end alike, in ``default.jpg`` or the like.
    """
    match = _IMAGE_URL.search(url)
    if match is None:
        return ""
    return unquote(url[: match.start()].partition("://")[2])
