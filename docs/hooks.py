"""Hooks of the site's build."""

from __future__ import annotations

import re
from typing import Any

# Cross-references in docstrings, which are written for Sphinx: only their text is shown.
_ROLE = re.compile(r":(?:class|func|meth|mod):(<code>)~?")


def on_page_content(html: str, **_: Any) -> str:
    """Take the names of Sphinx roles out of rendered docstrings."""
    return _ROLE.sub(r"\1", html)
