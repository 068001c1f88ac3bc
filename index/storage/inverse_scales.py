"""Scales that versions before 0.2 stored upside down.

Published exports give 1 / pyramid scale. Versions before 0.2 took that for the pyramid scale and
stored it; segments written since are marked.
"""

from __future__ import annotations

from delg.errors import DelgError
from delg.zoo.registry import find_model


def unmarked_are_inverse(model: str) -> bool:
    """Whether unmarked segments of an index hold 1 / pyramid scale.

    Args:
        model: name or folder of the index's model; empty for features made elsewhere.
    """
    if not model:
        return False
    try:
        export = find_model(model).settings.export
    except DelgError:
        return False
    # SavedModels that this package wrote gave the pyramid scale; only they can crop the border.
    return export is not None and not export.crops_border
