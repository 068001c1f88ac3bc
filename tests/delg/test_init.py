from __future__ import annotations

import pytest

import delg


@pytest.mark.parametrize("name", [name for name in delg.__all__ if name != "__version__"])
def test_every_public_name_is_found(name: str) -> None:
    assert getattr(delg, name).__name__ == name


def test_errors_are_of_one_family() -> None:
    for error in (delg.ImageError, delg.ModelError, delg.UsageError):
        assert issubclass(error, delg.DelgError)


def test_other_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        _ = delg.nothing_of_ours
    assert not hasattr(delg, "load_models")
