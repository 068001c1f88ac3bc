from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import ValidationError

from delg.errors import UsageError
from delg.settings import (
    ExtractionSettings,
    ImageSettings,
    ModelSettings,
    Settings,
    parse,
    read_settings,
    read_yaml,
)
from delg.zoo.registry import SETTINGS_FILE, shipped_models

MODELS = Path(__import__("delg").__file__).parent / "models"


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_the_published_ones() -> None:
    settings = ModelSettings(name="x")
    assert settings.extraction.scales == (0.25, 0.3536, 0.5, 0.7071, 1.0, 1.4142, 2.0)
    assert settings.extraction.global_scales == (0.7071, 1.0, 1.4142)
    assert settings.extraction.longest_side == 1024
    assert settings.extraction.max_features == 1000
    assert not settings.extraction.enlarge
    assert settings.input.mean == settings.input.std == (128, 128, 128)
    assert (settings.global_head.dim, settings.global_head.gem_p) == (2048, 3)
    assert (settings.local_head.dim, settings.local_head.attention_hidden) == (128, 512)


def test_a_file_only_overrides(tmp_path: Path) -> None:
    path = written(tmp_path, "name: mine\nglobal_head:\n  dim: 7\nextraction: {max_features: 5}\n")
    settings = read_settings(ModelSettings, path)
    assert (settings.global_head.dim, settings.global_head.gem_p) == (7, 3)
    assert settings.extraction.max_features == 5
    assert settings.extraction.scales == ExtractionSettings().scales


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("name: x\nbackbon: resnet50\n", "backbon"),
        ("name: x\nextraction:\n  max_feature: 5\n", "extraction.max_feature"),
        ("name: x\nlocal_head: {Dim: 3}\n", "local_head.Dim"),
    ],
)
def test_a_misspelt_key_is_named_with_the_file(tmp_path: Path, text: str, key: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        read_settings(ModelSettings, path)
    assert str(path) in str(caught.value)
    assert f"{key}:" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"global_head": {"dim": 0}}, "global_head.dim"),
        ({"global_head": {"gem_p": 0.5}}, "global_head.gem_p"),
        ({"local_head": {"kind": "orb"}}, "local_head.kind"),
        ({"local_head": {"attention": "softmax"}}, "local_head.attention"),
        ({"input": {"mean": [1, 2]}}, "input.mean"),
        ({"input": {"channel_order": "gbr"}}, "input.channel_order"),
        ({"extraction": {"longest_side": 31}}, "extraction.longest_side"),
        ({"extraction": {"max_features": -1}}, "extraction.max_features"),
        ({"block3_strides": "perhaps"}, "block3_strides"),
    ],
)
def test_values_out_of_range_are_named(values: dict[str, object], key: str) -> None:
    with pytest.raises(UsageError, match=f"origin: .*{key}"):
        parse(ModelSettings, {"name": "x", **values}, "origin")


def test_the_name_is_required() -> None:
    with pytest.raises(UsageError, match="name"):
        parse(ModelSettings, {}, "origin")


def test_every_problem_is_listed() -> None:
    with pytest.raises(UsageError, match=r"block3_strides.*typo|typo.*block3_strides"):
        parse(ModelSettings, {"name": "x", "block3_strides": "no idea", "typo": 1}, "origin")


@pytest.mark.parametrize("key", ["scales", "global_scales"])
@pytest.mark.parametrize(
    "scales", [[], [0.0], [1, -1], [1.0, 0.5, 1.0], [float("nan")], [1.0, float("inf")]]
)
def test_scales_are_different_positive_numbers(key: str, scales: list[float]) -> None:
    with pytest.raises(UsageError, match="scales"):
        parse(ExtractionSettings, {key: scales}, "origin")


def test_a_division_by_zero_is_refused() -> None:
    with pytest.raises(UsageError, match=r"input\.std"):
        parse(ModelSettings, {"name": "x", "input": {"std": [128, 0, 128]}}, "origin")


@pytest.mark.parametrize(
    "limits", [{"max_pixels": 99}, {"max_pixels": 179_000_000}, {"min_side": 0}, {"typo": 1}]
)
def test_limits_of_images(limits: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(limits))):
        parse(ImageSettings, limits, "origin")


def test_settings_cannot_be_changed() -> None:
    settings = ModelSettings(name="x")
    with pytest.raises(ValidationError):
        settings.name = "y"
    with pytest.raises(ValidationError):
        settings.extraction.max_features = 3


@pytest.mark.parametrize("content", ["- a\n- b\n", "just text\n", "5\n"])
def test_a_file_that_holds_no_mapping_is_an_error(tmp_path: Path, content: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(UsageError, match=r"settings\.yaml"):
        read_settings(ModelSettings, path)


@pytest.mark.parametrize(
    "content",
    [
        "a: [1, 2\n",
        "a: b: c\n",
        "\tx: 1\n",
        "a: !!python/object/apply:os.system ['true']\n",
        "a: 2020-13-45\n",
        "a: *nowhere\n",
    ],
)
def test_what_is_not_plain_yaml_is_an_error_that_names_the_file(
    tmp_path: Path, content: str
) -> None:
    with pytest.raises(UsageError, match=r"settings\.yaml.*not valid YAML"):
        read_yaml(written(tmp_path, content))


def test_bytes_that_are_not_text(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_yaml(path)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.yaml", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            read_yaml(path)


def test_an_empty_file_has_no_values(tmp_path: Path) -> None:
    assert read_yaml(written(tmp_path, "")) == {}
    assert read_yaml(written(tmp_path, "# only a comment\n")) == {}
    assert read_settings(ExtractionSettings, written(tmp_path, "")) == ExtractionSettings()


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_settings_are_valid_and_called_as_their_folder(name: str) -> None:
    settings = read_settings(ModelSettings, MODELS / name / SETTINGS_FILE)
    assert settings.name == name
    assert settings.description


class Inner(Settings):
    deprecated_keys: ClassVar[dict[str, str]] = {"average": "ema_decay"}
    ema_decay: float = 0.0


class Outer(Settings):
    deprecated_keys: ClassVar[dict[str, str]] = {"old": "inner", "maybe": "optional"}
    inner: Inner = Inner()
    optional: Inner | None = None


def test_deprecated_keys_are_read_at_any_depth_with_a_warning_that_names_the_new_one(caplog):
    settings = parse(Outer, {"old": {"average": 0.5}, "maybe": {"average": 1}}, "a.yaml")
    assert settings == Outer(inner=Inner(ema_decay=0.5), optional=Inner(ema_decay=1))
    assert [record.getMessage() for record in caplog.records] == [
        "a.yaml: old is deprecated, write inner",
        "a.yaml: inner.average is deprecated, write inner.ema_decay",
        "a.yaml: maybe is deprecated, write optional",
        "a.yaml: optional.average is deprecated, write optional.ema_decay",
    ]
    caplog.clear()
    assert Outer.model_validate({"old": {"average": 0.5}}).inner.ema_decay == 0.5
    assert len(caplog.records) == 2


def test_what_an_earlier_version_recorded_is_read_without_a_warning(caplog):
    recorded = {"old": {"average": 0.5}}
    assert parse(Outer, recorded, "index", recorded=True).inner.ema_decay == 0.5
    assert not caplog.records


@pytest.mark.parametrize("values", [{"old": {}, "inner": {}}, {"inner": {}, "old": {}}])
def test_a_key_under_both_names_is_an_error(values):
    with pytest.raises(UsageError, match=r"a\.yaml: old is the former name of inner"):
        parse(Outer, values, "a.yaml")


def test_values_that_are_no_settings_stay_errors():
    for values in (3, [1], {"old": 3}, {3: 3}, {"old": {"average": "x"}}):
        with pytest.raises(UsageError, match=r"a\.yaml"):
            parse(Outer, values, "a.yaml")
