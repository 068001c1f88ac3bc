"""Learning a calibration: what it is fitted on, what it is measured on, and refusals."""

from pathlib import Path

import numpy as np
import pytest
from dots import dots, model_folder

from delg.errors import UsageError
from index.calibrate.fit import LabelledPairs, measure_reliability
from index.calibrate.learn import _fit, _labelled_photos
from index.cli.model import model_calibrate
from index.results import Evidence

PAIRS = 60


def query(group: int, weight: float = 1.0, same: bool | None = None) -> LabelledPairs:
    """A query's pairs, half of them with evidence; more inliers speak for them."""
    rng = np.random.default_rng(group)
    inliers = rng.uniform(6, 40, PAIRS)
    is_same = rng.random(PAIRS) < 1 / (1 + np.exp(10 - inliers / 2))
    evidence = rng.uniform(0, 1, (PAIRS, len(Evidence._fields)))
    evidence[:, 0] = inliers
    evidence[::2] = np.nan
    is_same[::2] = False
    if same is not None:
        is_same[:] = same
    return LabelledPairs(rng.uniform(0, 1, PAIRS), evidence, is_same, np.full(PAIRS, weight))


def test_reliability_is_of_queries_that_were_held_out_and_of_sure_labels():
    composites = [(f"picture {group:02d}", query(group)) for group in range(12)]
    labelled = [(f"town/{group:02d}", query(50 + group, weight=0.1)) for group in range(6)]
    calibration = _fit([*composites, *labelled])
    reliability = calibration.reliability
    # Every third group by name: pictures 0, 3, 6 and 9; town's pairs count for the fit alone.
    held_out = [pairs for _, pairs in composites[::3]]
    assert reliability == measure_reliability(calibration, LabelledPairs.concatenate(held_out))
    assert reliability is not None and reliability.pairs == 4 * PAIRS // 2
    assert reliability.expected_calibration_error < 0.2
    assert calibration.evidence["inliers"].log_odds[-1] > 3
    # What was held out does not reach the fit.
    changed = [
        (name, query(int(name[-2:]), same=True) if place % 3 == 0 else pairs)
        for place, (name, pairs) in enumerate(composites)
    ]
    again = _fit([*changed, *labelled])
    assert again.evidence == calibration.evidence and again.reliability != reliability


@pytest.mark.parametrize(
    ("collected", "said"),
    [
        ([], "too few"),
        ([("a", query(1))], "too few"),
        (
            [("a", query(1, same=True)), ("b", query(2, same=True))],
            "too few of them match, or do not",
        ),
        ([("a", query(1, same=False)), ("b", query(2, same=False))], "too few of them match"),
        ([(name, query(1).where(np.arange(PAIRS) % 2 == 1)) for name in "ab"], "do not"),
    ],
)
def test_photos_that_teach_nothing_are_refused(collected, said):
    with pytest.raises(UsageError, match=said):
        _fit(collected)


def test_labels_are_the_folders_of_each_source(tmp_path: Path):
    town = "town/a/1.png", "town/a/2.png", "town/b/1.png", "town/loose.png"
    for number, place in enumerate((*town, "covers/a/1.png")):
        dots(number).save(tmp_path / place)
    labelled = _labelled_photos([tmp_path / "town", tmp_path / "covers"])
    assert {(photo.id, label) for photo, label in labelled} == {
        ("labelled/0/a/1.png", "0/a"),
        ("labelled/0/a/2.png", "0/a"),
        ("labelled/0/b/1.png", "0/b"),
        ("labelled/1/a/1.png", "1/a"),
    }


def test_an_existing_calibration_is_not_overwritten(tmp_path: Path):
    folder = model_folder(tmp_path / "model")
    (folder / "calibration.json").write_text("mine")
    for out, name in ((None, folder / "calibration.json"), (folder / "weights.h5",) * 2):
        with pytest.raises(UsageError) as caught:
            model_calibrate(str(folder), [tmp_path], out=out)
        assert str(name) in str(caught.value) and "delete it first" in str(caught.value)
    assert (folder / "calibration.json").read_text() == "mine"
