"""The file of answers: what is written comes back, and nothing else is taken for it."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delg.errors import DelgError, UsageError
from eval.predictions import (
    FILE,
    Predictions,
    load_predictions,
    plain_ranking,
    save_predictions,
    truncate,
)
from index.results import Ranking

# NumPy's texts drop zeros at the end, and file names hold neither zeros nor lone surrogates.
texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)
scores = st.floats(-2, 4, width=32)


@st.composite
def rankings(draw) -> Ranking:
    ids = draw(st.lists(texts, max_size=4))
    count = len(ids)

    def column(values: st.SearchStrategy, kind: type) -> np.ndarray:
        return np.array(draw(st.lists(values, min_size=count, max_size=count)), kind)

    return Ranking(
        tuple(ids),
        column(scores, np.float32),
        column(st.integers(0, 2000), np.int32),
        column(st.floats(0, 1, width=32), np.float32),
        column(st.booleans(), bool),
    )


predictions = st.builds(
    Predictions,
    st.dictionaries(
        st.sampled_from(["all", "easy", "medium", "hard"]),
        st.dictionaries(texts, rankings(), max_size=3),
    ),
    st.dictionaries(texts, st.tuples(texts, st.floats(-2, 9)), max_size=3),
)


def plain(predictions: Predictions) -> tuple[dict, dict]:
    """Values that can be compared, with their types."""
    lists = {
        name: {
            query: (
                ranking.ids,
                *(
                    (part.dtype, part.tolist())
                    for part in (ranking.scores, ranking.inliers, ranking.verified)
                ),
            )
            for query, ranking in by_query.items()
        }
        for name, by_query in predictions.rankings.items()
    }
    return lists, dict(predictions.labels)


def some() -> Predictions:
    ranking = Ranking(
        ("a", "b/ü.jpg"),
        np.array([2.5, 0.25], np.float32),
        np.array([40, 0], np.int32),
        np.array([0.97, 0.125], np.float32),
        np.array([True, False]),
    )
    return Predictions({"all": {"q": ranking, "r": plain_ranking(())}}, {"q": ("tower", 2.5)})


@given(predictions)
def test_answers_come_back_as_they_were_written(tmp_path, written):
    save_predictions(tmp_path, written)
    assert plain(load_predictions(tmp_path)) == plain(written)


def test_answers_keep_the_order_of_lists_queries_and_hits(tmp_path):
    first, second = plain_ranking(("z", "a", "m")), plain_ranking(("a", "z"))
    save_predictions(
        tmp_path, Predictions({"hard": {"q2": first, "q1": second}, "easy": {"q2": second}})
    )
    loaded = load_predictions(tmp_path).rankings
    assert [(name, list(by_query)) for name, by_query in loaded.items()] == [
        ("hard", ["q2", "q1"]),
        ("easy", ["q2"]),
    ]
    assert loaded["hard"]["q2"].ids == ("z", "a", "m")
    assert loaded["hard"]["q1"].ids == loaded["easy"]["q2"].ids == ("a", "z")


def test_ids_are_plain_texts_again(tmp_path):
    save_predictions(tmp_path, some())
    loaded = load_predictions(tmp_path)
    ranking = loaded.rankings["all"]["q"]
    (query, (label, score)), *_ = loaded.labels.items()
    assert {type(text) for text in (*ranking.ids, *loaded.rankings["all"], query, label)} == {str}
    assert type(score) is float


@pytest.mark.parametrize("lists", [{}, {"all": {}}, {"easy": {}, "hard": {}}])
def test_no_answers_are_answers_too(tmp_path, lists):
    save_predictions(tmp_path, Predictions(lists))
    assert plain(load_predictions(tmp_path)) == (lists, {})


def test_a_query_where_nothing_was_recognised_has_no_label(tmp_path):
    save_predictions(tmp_path, Predictions({"all": {}}, {"q": None, "r": ("tower", 1.5)}))
    assert load_predictions(tmp_path).labels == {"r": ("tower", 1.5)}
    save_predictions(tmp_path, Predictions({"all": {}}, {"q": None}))
    assert load_predictions(tmp_path).labels == {}


def test_the_file_appears_alone_and_replaces_the_last_one(tmp_path):
    save_predictions(tmp_path, Predictions({"all": {"old": plain_ranking(("x",))}}))
    save_predictions(tmp_path, some())
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert list(load_predictions(tmp_path).rankings["all"]) == ["q", "r"]


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    with pytest.raises(DelgError, match=f"nowhere/{FILE}: cannot be written"):
        save_predictions(tmp_path / "nowhere", some())


def test_a_ranking_cut_short_keeps_what_belongs_together():
    short = truncate(some().rankings["all"]["q"], 1)
    assert short.ids == ("a",)
    assert (short.scores.tolist(), short.inliers.tolist(), short.verified.tolist()) == (
        [2.5],
        [40],
        [True],
    )
    assert truncate(short, 9).ids == ("a",)


def test_the_scores_of_a_plain_ranking_fall():
    assert plain_ranking(("a", "b", "c")).scores.tolist() == [0, -1, -2]


# --- Files that are not what they should be ---


def reject(folder: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_predictions(folder)
    assert str(folder / FILE) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    reject(tmp_path)


def test_a_folder_in_its_place_is_named(tmp_path):
    (tmp_path / FILE).mkdir()
    reject(tmp_path)


def array_file(array: np.ndarray, **options: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "contents",
    [b"", b"\0" * 99, b"query,relevant\nq,a\n", b"PK\x03\x04", array_file(np.arange(4))],
    ids=["empty", "zeros", "table", "zip's first bytes", "lone array"],
)
def test_a_foreign_file_is_named(tmp_path, contents):
    (tmp_path / FILE).write_bytes(contents)
    reject(tmp_path)


def test_a_truncated_file_is_named(tmp_path):
    save_predictions(tmp_path, some())
    content = (tmp_path / FILE).read_bytes()
    for length in range(0, len(content), 37):
        (tmp_path / FILE).write_bytes(content[:length])
        reject(tmp_path)


def test_a_damaged_byte_is_named_or_does_no_harm(tmp_path):
    save_predictions(tmp_path, some())
    content = (tmp_path / FILE).read_bytes()
    for place in range(0, len(content), 3):
        for flip in (0x01, 0xFF):
            changed = bytearray(content)
            changed[place] ^= flip
            (tmp_path / FILE).write_bytes(changed)
            try:
                loaded = load_predictions(tmp_path)
            except UsageError as error:
                assert str(tmp_path / FILE) in str(error)
            else:
                assert isinstance(loaded, Predictions)


class Trap:
    """Pickled, it leaves a file behind where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "inside an array"])
def test_no_pickle_is_ever_loaded(tmp_path, wrapped):
    sprung = tmp_path / "sprung"
    if wrapped:
        save_predictions(tmp_path, some())
        with zipfile.ZipFile(tmp_path / FILE) as file:
            parts = {name: file.read(name) for name in file.namelist()}
        trap = np.array([Trap(sprung)], object)
        with zipfile.ZipFile(tmp_path / FILE, "w") as file:
            for name in parts:
                file.writestr(name, array_file(trap, allow_pickle=True))
    else:
        (tmp_path / FILE).write_bytes(pickle.dumps(Trap(sprung)))
    reject(tmp_path)
    assert not sprung.exists()


GOOD = {
    "ids": np.array(["a", "b"]),
    "all/queries": np.array(["q", "r"]),
    "all/offsets": np.array([0, 2, 3]),
    "all/images": np.array([0, 1, 0], np.int32),
    "all/scores": np.zeros(3, np.float32),
    "all/inliers": np.zeros(3, np.int32),
    "all/verified": np.zeros(3, bool),
    "labels/queries": np.array(["q"]),
    "labels/labels": np.array(["tower"]),
    "labels/scores": np.array([1.0]),
}


def test_arrays_that_fit_are_read(tmp_path):
    np.savez(tmp_path / FILE, **GOOD)
    loaded = load_predictions(tmp_path)
    assert loaded.rankings["all"]["q"].ids == ("a", "b")
    assert loaded.rankings["all"]["r"].ids == ("a",)
    assert loaded.labels == {"q": ("tower", 1.0)}


@pytest.mark.parametrize("name", GOOD)
def test_a_missing_array_is_damage(tmp_path, name):
    np.savez(tmp_path / FILE, **{key: array for key, array in GOOD.items() if key != name})
    if name in ("all/offsets", "labels/queries"):
        # These say that there is a list; without them there is none.
        assert not (load_predictions(tmp_path).rankings and load_predictions(tmp_path).labels)
    else:
        reject(tmp_path)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("ids", np.array([1, 2])),
        ("ids", np.array("a")),
        ("all/queries", np.array(["q"])),
        ("all/queries", np.array([1, 2])),
        ("all/offsets", np.zeros(0, np.int64)),
        ("all/offsets", np.array([0, 2, 2])),
        ("all/offsets", np.array([1, 2, 3])),
        ("all/offsets", np.array([0, 4, 3])),
        ("all/offsets", np.array([0.0, 2.0, 3.0])),
        ("all/images", np.array([0, 1, 2], np.int32)),
        ("all/images", np.array([0, 1, -1], np.int32)),
        ("all/images", np.array([0.0, 1.0, 0.0])),
        ("all/images", np.zeros((3, 1), np.int32)),
        ("all/scores", np.zeros(2, np.float32)),
        ("all/scores", np.array(["x", "y", "z"])),
        ("all/verified", np.zeros((3, 2), bool)),
        ("labels/labels", np.array(["tower", "bridge"])),
        ("labels/scores", np.array(["high"])),
    ],
)
def test_arrays_that_do_not_fit_each_other_are_damage(tmp_path, name, array):
    np.savez(tmp_path / FILE, **{**GOOD, name: array})
    reject(tmp_path)
