"""The files that pages are made of: templates, and what browsers load beside them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape

from index.visualize.draw_matches import PALETTE

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Asset:
    """A file as it is sent."""

    data: bytes
    media_type: str


def load_assets() -> dict[str, Asset]:
    """All files under their names; nothing else can be asked for."""
    here = files("index")
    found = [here / "visualize" / "templates" / "look.css", *(here / "serve" / "static").iterdir()]
    return {
        one.name: Asset(one.read_bytes(), _TYPES["." + one.name.rpartition(".")[2]])
        for one in found
    }


def environment(assets: dict[str, Asset], packages: Sequence[str] = ()) -> jinja2.Environment:
    """Templates of the server, of the other pages of ``index``, and of further packages."""
    places = [jinja2.PackageLoader(name) for name in ("index.serve", "index.visualize", *packages)]
    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader(places),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    digest = hashlib.sha256(b"".join(one.data for _, one in sorted(assets.items()))).hexdigest()
    made.globals["version"] = digest[:12]
    made.globals["palette"] = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in PALETTE.tolist()]
    made.filters["quoted"] = lambda text: quote(text, safe="")
    made.filters["breakable"] = _breakable
    made.filters["bytes"] = _bytes
    made.filters["duration"] = _duration
    return made


def _breakable(text: str) -> Markup:
    """Where a long name may go on in the next line: after what separates its parts."""
    return Markup(re.sub("([/_-]+)", r"\1<wbr>", str(escape(text))))


def _bytes(count: Any) -> str:
    size = float(count)
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if size >= 10 or unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


def _duration(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.1f} s" if milliseconds >= 1000 else f"{milliseconds:.0f} ms"
