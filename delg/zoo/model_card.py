"""The model card: metadata for programs at the head of a page for people.

``MODEL_CARD.md`` lies in a model's folder; the metadata is YAML between two lines of ``---``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from delg.errors import ModelError
from delg.files import write_text
from delg.paths import exists
from delg.plain_values import parse_yaml, read_text

CARD_FILE = "MODEL_CARD.md"
_FENCE = "---\n"


def read_card(folder: Path) -> dict[str, Any] | None:
    """The metadata of a model's card, or None where there is no card.

    Raises:
        ModelError: there is a card without readable metadata.
    """
    path = folder / CARD_FILE
    if not exists(path):
        return None
    try:
        text = read_text(path)
        if not text.startswith(_FENCE):
            raise ModelError(f"{path}: does not begin with metadata between lines of ---")
        metadata = parse_yaml(text[len(_FENCE) :].split("\n" + _FENCE, 1)[0])
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from None
    if not isinstance(metadata, dict):
        raise ModelError(f"{path}: its metadata is no mapping of keys to values")
    return metadata


def write_card(folder: Path, metadata: dict[str, Any], text: str) -> None:
    """Write the card.

    Raises:
        DelgError: it cannot be written.
    """
    head = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=100)
    write_text(folder / CARD_FILE, f"{_FENCE}{head}{_FENCE}\n{text.strip()}\n")
