"""The methods that are measured where a plan names none: the default, and what differs from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Overrides = Mapping[str, Any]

DEFAULT = "default"
# Name -> settings by section and key that differ from the default.
METHODS: dict[str, Overrides] = {
    DEFAULT: {},
    "global descriptor alone": {"ranking": {"rerank": 0}},
    "no shortlist by local features": {"local_shortlist": {"enabled": False}},
    "no neighbours": {"neighbours": {"method": "none"}},
    "average expansion": {"neighbours": {"method": "average-expansion"}},
    "α-expansion": {"neighbours": {"method": "alpha-expansion"}},
    "SuperGlobal": {"neighbours": {"method": "superglobal"}},
    "k-reciprocal": {"neighbours": {"method": "k-reciprocal"}},
    "diffusion": {"neighbours": {"method": "diffusion"}},
    "all candidates verified": {"ranking": {"patience": 0}},
    "never deeper": {"ranking": {"deepen": 0}},
    "no search in regions": {"regions": {"enabled": False}},
    "no second verification": {"reverification": {"candidates": 0}},
    "inliers alone decide": {"ranking": {"order": "inliers"}},
}
