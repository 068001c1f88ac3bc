"""Templates of the pages, and the static files that browsers load with them."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urlencode

import jinja2
from markupsafe import Markup, escape

from delg.remote_path import is_web_url
from index.answers.source_links import descriptive_metadata, source_url_of
from index.results import as_percent
from index.visualize.draw_matches import PALETTE

_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Asset:
    """A static file as it is sent."""

    data: bytes
    media_type: str


def load_assets() -> dict[str, Asset]:
    """All static files by name; no other file can be requested."""
    package = files("index")
    style = package / "visualize" / "templates" / "look.css"
    return {
        file.name: Asset(file.read_bytes(), _MEDIA_TYPES["." + file.name.rpartition(".")[2]])
        for file in (style, *(package / "serve" / "static").iterdir())
    }


def make_environment(
    assets: dict[str, Asset], packages: Sequence[str] = (), root: str = ""
) -> jinja2.Environment:
    """The environment of the server's templates, of those of ``index``, and of more packages.

    Args:
        root: path that all links of the index begin with.
    """
    loaders = [jinja2.PackageLoader(name) for name in ("index.serve", "index.visualize", *packages)]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    digest = hashlib.sha256(b"".join(asset.data for _, asset in sorted(assets.items()))).hexdigest()
    colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in PALETTE.tolist()]
    environment.globals |= {"root": root, "version": digest[:12], "palette": colours}
    environment.filters |= {
        "quoted": lambda text: quote(text, safe=""),
        "breakable": _breakable,
        "bytes": _bytes,
        "duration": _duration,
        "day": _day,
        "moment": _moment,
        "query": urlencode,
        "percent": as_percent,
        "is_web_address": is_web_url,
        "source_url": source_url_of,
        "descriptive_metadata": descriptive_metadata,
    }
    return environment


def _breakable(text: str) -> Markup:
    """Allow line breaks in a long name, after the characters that separate its parts."""
    return Markup(re.sub("([/_-]+)", r"\1<wbr>", str(escape(text))))


def _bytes(count: Any) -> str:
    size = float(count)
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if size >= 10 or unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


def _day(seconds: float) -> str:
    """A day in local time, as in 2026-11-29."""
    return time.strftime("%Y-%m-%d", time.localtime(seconds))


def _moment(text: str) -> str:
    """A time of the log, in ISO 8601, in local time to the minute."""
    try:
        return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return text


def _duration(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.1f} s" if milliseconds >= 1000 else f"{milliseconds:.0f} ms"
