"""Small arrays as text, as the catalog of an index records what is learnt."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

import numpy as np

from delg.plain_values import parse_json

_TYPES = {"float16": "<f2", "float32": "<f4"}


def arrays_to_text(arrays: Mapping[str, np.ndarray]) -> str:
    """Arrays of float16 or float32 by name, as JSON."""
    return json.dumps(
        {
            name: {
                "shape": values.shape,
                values.dtype.name: base64.b64encode(
                    values.astype(_TYPES[values.dtype.name]).tobytes()
                ).decode(),
            }
            for name, values in arrays.items()
        }
    )


def arrays_from_text(text: str) -> dict[str, np.ndarray]:
    """The inverse of :func:`arrays_to_text`.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return {name: _array(part) for name, part in parse_json(text).items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _array(part: Mapping) -> np.ndarray:
    [name] = part.keys() - {"shape"}
    values = np.frombuffer(base64.b64decode(part[name]), _TYPES[name])
    return values.astype(name).reshape(part["shape"])
