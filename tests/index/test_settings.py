import json
import logging

import pytest
from pydantic import ValidationError

from delg.errors import UsageError
from delg.settings import _settings_in, parse
from delg.zoo.registry import find_model
from index.settings import IndexSettings, merge, read_overrides, record


def test_the_defaults_are_valid_and_cannot_be_changed_in_place():
    settings = IndexSettings()
    assert settings.extraction is None
    with pytest.raises(ValidationError):
        settings.matching = None
    assert IndexSettings.model_validate_json(settings.model_dump_json()) == settings


def test_overrides_replace_their_keys_and_leave_the_others():
    recorded = IndexSettings.model_validate({"matching": {"ratio": 0.8, "mutual": False}})
    merged = merge(recorded, {"matching": {"ratio": 0.7}, "ranking": {"rerank": 5}}, "x.yaml")
    assert merged.matching.ratio == 0.7 and merged.matching.mutual is False
    assert merged.ranking.rerank == 5
    assert merged.verification == recorded.verification
    assert recorded.matching.ratio == 0.8


def test_no_overrides_change_nothing():
    recorded = IndexSettings.model_validate({"matching": {"ratio": 0.8}})
    assert merge(recorded, {}, "x.yaml") == recorded


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"matchin": {"ratio": 0.7}}, "matchin"),
        ({"matching": {"ration": 0.7}}, "matching.ration"),
        ({"matching": {"ratio": 2}}, "matching.ratio"),
        ({"matching": {"ratio": "much"}}, "matching.ratio"),
        ({"matching": 3}, "matching"),
        ({"matching": None}, "matching"),
        ({"verification": {"method": "magic"}}, "verification.method"),
        ({"verification": {"sought_inliers": 3}}, "verification.sought_inliers"),
        ({"shortlist": {"kind": "hnsw"}}, "shortlist.kind"),
        ({"store": {"segment_images": 0}}, "store.segment_images"),
        ({"extraction": {"longest_sid": 3}}, "extraction.longest_sid"),
        (["matching"], "settings"),
        ("matching", "settings"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_origin(overrides, named):
    with pytest.raises(UsageError) as error:
        merge(IndexSettings(), overrides, "x.yaml")
    assert str(error.value).startswith("x.yaml: ")
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("store", {"local_codec": "float32"}),
        ("store", {"segment_images": 7}),
        ("extraction", {"longest_side": 640}),
    ],
)
def test_what_the_stored_features_depend_on_is_fixed(section, values):
    with pytest.raises(UsageError, match=f"x.yaml: {section} is fixed when an index is created"):
        merge(IndexSettings(), {section: values}, "x.yaml")


def test_naming_a_fixed_section_as_it_is_recorded_is_no_change():
    recorded = IndexSettings.model_validate(
        {"extraction": {"longest_side": 640}, "store": {"local_codec": "float16"}}
    )
    overrides = {"extraction": {"longest_side": 640}, "store": {"local_codec": "float16"}}
    assert merge(recorded, overrides, "x.yaml") == recorded


@pytest.mark.parametrize(
    ("name", "enlarge", "scales"),
    [("delg-lite", True, "enlarged"), ("delg-lite", False, "shrunk"), ("sift", True, "ignored")],
)
def test_what_scales_tell_depends_on_the_model(name, enlarge, scales):
    files = find_model(name)
    extraction = files.settings.extraction.model_copy(update={"enlarge": enlarge})
    model = files.settings.model_copy(update={"extraction": extraction})
    assert IndexSettings().of_model(model).verification.scales == scales
    own = parse(IndexSettings, {"verification": {"scales": "ignored"}}, "own")
    assert own.of_model(model).verification == own.verification
    assert IndexSettings().of_model(None).verification.scales == "ignored"


FORMER = {
    "second_look": {"candidates": 3},
    "verification": {"believable": False},
    "shortlist": {"ivf_lists": 7, "ivf_probes": 2, "refine": 4},
}
PRESENT = {
    "reverification": {"candidates": 3},
    "verification": {"check_plausibility": False},
    "shortlist": {"nlist": 7, "nprobe": 2, "refine_factor": 4},
}


def test_former_names_of_keys_are_read_with_a_warning_that_gives_both_names(caplog):
    assert read_overrides(FORMER, "x.yaml") == PRESENT
    assert len(caplog.records) == 5
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert "x.yaml: shortlist.ivf_lists is deprecated, write shortlist.nlist" in caplog.text
    caplog.clear()
    recorded = IndexSettings.model_validate(PRESENT)
    assert merge(IndexSettings(), read_overrides(PRESENT, "x.yaml"), "x.yaml") == recorded
    assert not caplog.records


def test_a_former_name_overrides_the_key_recorded_under_its_present_one():
    recorded = parse(IndexSettings, PRESENT, "own")
    merged = merge(recorded, {"shortlist": {"ivf_lists": 11}}, "x.yaml")
    assert merged.shortlist.nlist == 11 and merged.shortlist.nprobe == 2


def test_keys_without_effect_are_passed_over_with_a_warning(caplog):
    gone = {"ranking": {"half_inliers": 40, "rerank": 7}, "verification": {"min_inliers": 9}}
    assert read_overrides(gone, "x.yaml") == {"ranking": {"rerank": 7}, "verification": {}}
    assert "x.yaml: ranking.half_inliers has no effect any more" in caplog.text
    assert "x.yaml: verification.min_inliers has no effect any more" in caplog.text
    caplog.clear()
    assert parse(IndexSettings, gone, "catalog", recorded=True).ranking.rerank == 7
    assert not caplog.records


def test_a_key_under_both_names_is_an_error_that_gives_both():
    both = {"shortlist": {"ivf_lists": 40, "nlist": 40}}
    with pytest.raises(UsageError, match=r"x.yaml: shortlist.ivf_lists.*nlist"):
        read_overrides(both, "x.yaml")


def test_what_an_earlier_version_recorded_is_read_silently(caplog):
    parsed = parse(IndexSettings, json.loads(json.dumps(FORMER)), "catalog", recorded=True)
    assert parsed == IndexSettings.model_validate(PRESENT) and not caplog.records


def every_number(kind, prefix=()):
    """Section and key of each field that takes a number."""
    for name, field in kind.model_fields.items():
        inner = _settings_in(field.annotation)
        if inner is not None:
            yield from every_number(inner, (*prefix, name))
        elif any(word in str(field.annotation) for word in ("float", "int")):
            yield (*prefix, name)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 10**400])
def test_numbers_that_cannot_be_read_back_are_refused_at_the_door(value):
    places = list(every_number(IndexSettings))
    assert len(places) > 30
    for place in places:
        overrides = value
        for key in reversed(place):
            overrides = {key: overrides}
        with pytest.raises(UsageError, match=place[-1]):
            read_overrides(overrides, "x.yaml")


def test_what_could_not_be_read_back_is_not_recorded():
    broken = IndexSettings.model_construct(**{**dict(IndexSettings()), "store": {"nonsense": 1}})
    with pytest.raises(UsageError, match=r"store\.nonsense"):
        record(broken)
    assert parse(IndexSettings, json.loads(record(IndexSettings())), "x") == IndexSettings()
