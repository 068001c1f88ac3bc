"""The engine is asked fairly: what may be found, what may not, and what fails alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dot_benchmarks import folders, gallery, photo, recognition, revisited, thing
from dots import model_folder

from delg.errors import DelgError, UsageError
from delg.images.scan import Photo
from eval.benchmark import Benchmark, QueryPhoto, RetrievalTruth
from eval.predictions import Predictions
from eval.run_queries import Engine, QueryResults, check_distractors, index_gallery, run_queries
from eval.scoring import score
from index import ImageIndex


def prepare(benchmark: Benchmark, folder: Path, model: str, **overrides: dict) -> ImageIndex:
    return index_gallery(benchmark, folder / "i", model, overrides)[0]


def ids(results: QueryResults, query: str, name: str = "all") -> tuple[str, ...]:
    return results.predictions.rankings[name][query].ids


def plain(predictions: Predictions) -> dict:
    return {
        name: {
            query: (
                ranking.ids,
                ranking.scores.tolist(),
                ranking.inliers.tolist(),
                ranking.verified.tolist(),
            )
            for query, ranking in by_query.items()
        }
        for name, by_query in predictions.rankings.items()
    }


def test_a_benchmark_that_the_engine_masters_scores_1(tmp_path, model):
    for benchmark in (folders(tmp_path / "f"), recognition(tmp_path / "r")):
        images = prepare(benchmark, tmp_path / benchmark.name, model)
        scores = score(benchmark, run_queries(benchmark, Engine(images)).predictions)
        values = scores.metrics["all"]
        main = {"mAP@100", "recall@1", "GAP", "GAP-", "accuracy"} & set(values)
        assert {values[name] for name in main} == {1}


def test_the_photo_of_a_query_is_never_found_by_itself(tmp_path, model):
    benchmark = folders(tmp_path / "f")
    results = run_queries(benchmark, Engine(prepare(benchmark, tmp_path, model)))
    everything = {photo.id for photo in benchmark.gallery}
    for query in everything:
        assert set(ids(results, query)) == everything - {query}


def test_a_query_without_a_place_in_the_gallery_finds_everything(tmp_path, model):
    benchmark = recognition(tmp_path / "r")
    results = run_queries(benchmark, Engine(prepare(benchmark, tmp_path, model)))
    assert set(ids(results, "q0.png")) == {photo.id for photo in benchmark.gallery}


def test_photos_of_the_index_that_are_not_of_the_gallery_never_appear(tmp_path, model):
    small = folders(tmp_path / "f", things=2)
    images = prepare(small, tmp_path, model)
    # The very photos of the queries under other ids: they would come first.
    images.add(tmp_path / "f", prefix="stranger/")
    results = run_queries(small, Engine(images, rerank=1))
    own = {photo.id for photo in small.gallery}
    for query in own:
        assert set(ids(results, query)) == own - {query}
        # Nor do they use up the one candidate that is verified.
        assert results.predictions.rankings["all"][query].verified[0]


def test_only_the_box_of_a_query_is_looked_at(tmp_path, model):
    benchmark = recognition(tmp_path / "r")
    left, right = thing(0), thing(1)
    both = replace(
        left,
        points=np.concatenate([left.points, right.points + np.array([210, 0])]),
        colours=np.concatenate([left.colours, right.colours]),
        size=(420, 160),
    )
    path = photo(tmp_path, "both.png", both).path
    query = QueryPhoto("q1.png", path, box=(210, 0, 200, 160))
    narrowed = replace(benchmark, queries=(query,))
    results = run_queries(narrowed, Engine(prepare(benchmark, tmp_path, model)))
    ranking = results.predictions.rankings["all"]["q1.png"]
    assert {
        image[0] for image, sure in zip(ranking.ids, ranking.verified, strict=True) if sure
    } == {"1"}


# --- Ignored images of revisited Oxford and Paris ---


def test_ignored_images_leave_before_reranking_at_each_difficulty(tmp_path, model):
    benchmark = revisited(tmp_path)
    images = prepare(benchmark, tmp_path, model)
    # By likeness alone the junk comes first, then what is easy, then what is hard.
    order = [hit.id for hit in images.query(benchmark.queries[0].path, rerank=0)]
    assert order[:3] == ["junk.png", "easy.png", "hard.png"]
    rankings = run_queries(benchmark, Engine(images, rerank=1)).predictions.rankings
    # The one candidate that is verified must be the first that counts.
    proven = {
        name: [
            image
            for image, sure in zip(by_query["q"].ids, by_query["q"].verified, strict=True)
            if sure
        ]
        for name, by_query in rankings.items()
    }
    assert proven == {"easy": ["easy.png"], "medium": ["easy.png"], "hard": ["hard.png"]}
    others = {"x.png", "y.png"}
    assert set(rankings["easy"]["q"].ids) == {"easy.png"} | others
    assert set(rankings["medium"]["q"].ids) == {"easy.png", "hard.png"} | others
    assert set(rankings["hard"]["q"].ids) == {"hard.png"} | others


def test_a_difficulty_at_which_nothing_is_right_is_not_asked(tmp_path, model):
    benchmark = revisited(tmp_path)
    truth = {"q": replace(benchmark.truth["q"], hard=frozenset())}
    benchmark = replace(benchmark, truth=truth)
    results = run_queries(benchmark, Engine(prepare(benchmark, tmp_path, model)))
    assert results.predictions.rankings["hard"] == {}
    assert set(results.predictions.rankings["easy"]) == {"q"}


# --- Distractors ---


def distractors(folder: Path, images: ImageIndex, prefix: str = "far/") -> ImageIndex:
    other = images.create_like(folder / "other.index")
    gallery(folder / "other", things=1)
    other.add(folder / "other", prefix=prefix)
    return other


def test_distractors_are_searched_too(tmp_path, model):
    benchmark = recognition(tmp_path / "r")
    images = prepare(benchmark, tmp_path, model)
    other = distractors(tmp_path, images)
    check_distractors(benchmark, [other])
    results = run_queries(benchmark, Engine(images, (other,)))
    assert len(ids(results, "q0.png")) == 12
    own = {f"0/{move}.png" for move in "abc"}
    assert set(ids(results, "q0.png")[:6]) == own | {f"far/{image}" for image in own}
    # They have no label, and so change nothing but ranks.
    assert results.predictions.labels["q0.png"][0] == "0"


def test_a_distractor_called_like_a_photo_of_the_gallery_is_an_error(tmp_path, model):
    benchmark = recognition(tmp_path / "r")
    images = prepare(benchmark, tmp_path, model)
    with pytest.raises(UsageError, match=r"other\.index: '0/a\.png' .* --prefix"):
        check_distractors(benchmark, [distractors(tmp_path, images, prefix="")])


# --- What fails, and what does not ---


def test_a_query_that_cannot_be_read_fails_alone_and_scores_0(tmp_path, model):
    benchmark = folders(tmp_path / "f")
    images = prepare(benchmark, tmp_path, model)
    (tmp_path / "broken.png").write_bytes(b"no photo")
    first, second, *others = benchmark.queries
    queries = (
        replace(first, path=tmp_path / "broken.png"),
        replace(second, path=tmp_path / "nowhere.png"),
        *others,
    )
    changed = replace(benchmark, queries=queries)
    reports = []
    results = run_queries(changed, Engine(images), lambda *numbers: reports.append(numbers))
    assert set(results.failed) == {first.id, second.id}
    assert "not an image" in results.failed[first.id]
    assert "no such file" in results.failed[second.id]
    assert len(results.milliseconds) == 7
    assert reports[0] == (1, 9, 1) and reports[-1] == (9, 9, 2)
    scores = score(changed, results.predictions)
    assert scores.queries["all"][first.id]["AP@100"] == 0
    assert scores.metrics["all"]["mAP@100"] == pytest.approx(7 / 9)


def test_a_revisited_query_that_cannot_be_read_counts_at_every_difficulty(tmp_path, model):
    benchmark = revisited(tmp_path)
    images = prepare(benchmark, tmp_path, model)
    benchmark.queries[0].path.write_bytes(b"no photo")
    results = run_queries(benchmark, Engine(images))
    assert set(results.failed) == {"q"}
    metrics = score(benchmark, results.predictions).metrics
    assert {level: values["mAP"] for level, values in metrics.items()} == dict.fromkeys(
        ("easy", "medium", "hard"), 0
    )


@pytest.mark.parametrize("box", [(900, 0, 10, 10), (0, 0, 0, 5)])
def test_a_box_outside_the_photo_is_that_querys_failure(tmp_path, model, box):
    benchmark = recognition(tmp_path / "r")
    first, *others = benchmark.queries
    changed = replace(benchmark, queries=(replace(first, box=box), *others))
    results = run_queries(changed, Engine(prepare(benchmark, tmp_path, model)))
    assert set(results.failed) == {first.id} and "the box" in results.failed[first.id]
    assert set(results.predictions.labels) == {query.id for query in others}


def test_photos_of_the_gallery_that_cannot_be_read_are_named_and_left_out(tmp_path, model):
    benchmark = folders(tmp_path / "f")
    prepare(benchmark, tmp_path, model).close()
    missing = Photo("3/a.png", tmp_path / "f" / "3" / "a.png")
    benchmark.gallery[0].path.unlink()
    benchmark.gallery[4].path.write_bytes(b"no photo")
    larger = replace(benchmark, gallery=(*benchmark.gallery, missing))
    _, failed = index_gallery(larger, tmp_path / "i", model, {})
    assert set(failed) == {"0/a.png", "1/b.png", "3/a.png"}
    assert "not an image" in failed["1/b.png"] and "No such file" in failed["3/a.png"]


def test_a_gallery_of_which_nothing_can_be_read_is_an_error(tmp_path, model):
    benchmark = folders(tmp_path / "f")
    for image in benchmark.gallery:
        image.path.write_bytes(b"no photo")
    with pytest.raises(DelgError, match=r"none of the gallery's 9 photos.*not an image"):
        prepare(benchmark, tmp_path, model)


# --- The index of the gallery ---


def test_an_index_that_exists_is_used_and_completed(tmp_path, model):
    benchmark = folders(tmp_path / "f")
    few = replace(benchmark, gallery=benchmark.gallery[:4])
    prepare(few, tmp_path, model).close()
    images = prepare(benchmark, tmp_path, model)
    assert len(images) == 9
    assert images.extractor.extracted == 5
    again, _ = index_gallery(benchmark, tmp_path / "i", None, {})
    assert len(again) == 9


def test_an_index_of_another_model_is_an_error_that_names_both(tmp_path, model):
    benchmark = folders(tmp_path / "f")
    images = prepare(benchmark, tmp_path, model)
    other = model_folder(tmp_path / "other-model")
    settings = (other / "settings.yaml").read_text().replace("dim: 64", "dim: 48")
    (other / "settings.yaml").write_text(settings)
    with pytest.raises(UsageError, match="--index") as caught:
        prepare(benchmark, tmp_path, str(other))
    assert images.fingerprint in str(caught.value) and str(other) in str(caught.value)


def test_settings_hold_for_the_run_and_not_for_an_index_that_exists(tmp_path, model):
    benchmark = folders(tmp_path / "f")
    prepare(benchmark, tmp_path, model).close()
    images = prepare(benchmark, tmp_path, model, ranking={"rerank": 3})
    assert Engine(images).verified == 3
    assert Engine(images).metadata()["settings"]["ranking"]["rerank"] == 3
    images.close()
    assert Engine(prepare(benchmark, tmp_path, model)).verified == 100


def test_misspelt_settings_are_named(tmp_path, model):
    with pytest.raises(UsageError, match="rnking"):
        prepare(folders(tmp_path / "f"), tmp_path, model, rnking={"rerank": 3})


# --- Depth and repetition ---


def test_so_many_hits_are_kept_as_count_or_as_there_are(tmp_path, model):
    benchmark = folders(tmp_path / "f", things=2)
    images = prepare(benchmark, tmp_path, model)
    images.close()
    deep = replace(benchmark, depth=None)
    results = run_queries(deep, Engine(prepare(deep, tmp_path, model)))
    assert {len(ids(results, query.id)) for query in deep.queries} == {5}


def test_the_same_question_gets_the_same_answers(tmp_path, model):
    benchmark = revisited(tmp_path)
    images = prepare(benchmark, tmp_path, model)
    first = run_queries(benchmark, Engine(images)).predictions
    images.close()
    again = run_queries(benchmark, Engine(prepare(benchmark, tmp_path, model))).predictions
    assert plain(first) == plain(again)


def test_the_order_of_the_queries_changes_no_answer(tmp_path, model):
    benchmark = folders(tmp_path / "f")
    images = prepare(benchmark, tmp_path, model)
    turned = replace(benchmark, queries=benchmark.queries[::-1])
    first, again = (run_queries(order, Engine(images)).predictions for order in (benchmark, turned))
    assert plain(first) == plain(again)


def test_what_matches_nothing_sinks_below_what_is_found(tmp_path, model):
    benchmark = recognition(tmp_path / "r")
    labels = run_queries(benchmark, Engine(prepare(benchmark, tmp_path, model))).predictions.labels
    assert labels["other.png"][1] < 1 < min(labels[f"q{number}.png"][1] for number in range(3))


def test_a_benchmark_may_have_queries_without_a_match(tmp_path, model):
    known = recognition(tmp_path / "r")
    truth = {
        **{
            f"q{n}.png": RetrievalTruth(frozenset({f"{n}/{m}.png" for m in "abc"}))
            for n in range(3)
        },
        "other.png": RetrievalTruth(frozenset()),
    }
    benchmark = replace(known, protocol="retrieval", truth=truth, labels={})
    predictions = run_queries(benchmark, Engine(prepare(benchmark, tmp_path, model))).predictions
    assert predictions.labels == {}
    assert score(benchmark, predictions).metrics["all"]["GAP"] == 1
