"""A whole evaluation: the run, its baselines, its files."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from dot_benchmarks import folders, gallery, recognition, revisited

from delg.errors import DelgError, UsageError
from delg.types import Progress
from eval.benchmark import Benchmark
from eval.evaluate import BASELINES, EvalConfig, EvalResult, evaluate
from eval.run import Run, load_run, rescore, save_run
from index import ImageIndex


@contextmanager
def quiet(what: str) -> Iterator[Progress]:
    yield lambda done, total, failed: None


def run(benchmark: Benchmark, model: str | None = None, **config: object) -> list[EvalResult]:
    with evaluate(benchmark, EvalConfig(model=model, **config), quiet) as results:
        return results


def main(benchmark: Benchmark, model: str | None = None, **config: object) -> Run:
    return run(benchmark, model, **config)[0].run


def test_a_benchmark_that_the_engine_masters_scores_1(tmp_path, model):
    result = main(folders(tmp_path / "f"), model)
    assert result.title == "dots, all re-ranked"
    assert result.scores.metrics["all"]["mAP@100"] == 1
    assert result.scores.intervals["all"]["mAP@100"] == (1, 1)
    assert result.paths["0/a.png"] == str(tmp_path / "f" / "0" / "a.png")


def test_the_facts_say_what_was_measured_and_how(tmp_path, model):
    images = ImageIndex.create(tmp_path / "i", model)
    result = main(folders(tmp_path / "f"), index=tmp_path / "i", rerank=4, orientations="1")
    metadata = result.metadata
    assert (metadata["queries"], metadata["gallery"], metadata["failed_queries"]) == (9, 9, {})
    engine = metadata["engine"]
    assert (engine["model"], engine["fingerprint"]) == ("dots", images.fingerprint)
    assert (engine["rerank"], engine["orientations"], engine["images"]) == (4, "1", 9)
    assert engine["settings"]["verification"]["min_inliers"] == 20
    assert set(metadata["query_ms"]) == {"median", "fastest", "slowest"}
    assert metadata["seconds"] >= 0
    assert {"versions", "machine", "git", "command", "finished"} < set(metadata)
    assert result.title == "dots, 4 re-ranked"


def test_a_run_is_saved_and_scored_again_without_model_and_photos(tmp_path, model):
    for benchmark in (folders(tmp_path / "f"), recognition(tmp_path), revisited(tmp_path / "v")):
        result = main(benchmark, model)
        save_run(tmp_path / "run", result)
        again = rescore(load_run(tmp_path / "run"))
        assert again.scores == result.scores
        assert again.metadata == result.metadata


def test_repeated_evaluations_agree_in_every_number(tmp_path, model):
    benchmark = folders(tmp_path / "f")
    first, again = (main(benchmark, model, rerank=2) for _ in range(2))
    assert first.scores == again.scores
    for query, ranking in first.predictions.rankings["all"].items():
        other = again.predictions.rankings["all"][query]
        assert (ranking.ids, ranking.scores.tolist()) == (other.ids, other.scores.tolist())


# --- Where the index lies ---


def test_the_index_stays_below_the_runs_folder_and_is_used_again(tmp_path, model):
    benchmark = folders(tmp_path / "f")
    main(benchmark, model, out=tmp_path / "out")
    assert len(ImageIndex.open(tmp_path / "out" / "gallery.index")) == 9
    again = run(benchmark, model, out=tmp_path / "out")
    # Nine queries, and no photo of the gallery again.
    assert again[0].engine.images.extractor.extracted == 9


def test_without_a_place_nothing_is_left_behind(tmp_path, model, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    (tmp_path / "t").mkdir()
    main(folders(tmp_path / "f"), model)
    assert not list((tmp_path / "t").iterdir())


def test_an_index_of_another_model_is_an_error(tmp_path, model):
    benchmark = folders(tmp_path / "f")
    main(benchmark, model, index=tmp_path / "i")
    with pytest.raises(UsageError, match=f"{tmp_path}/i was made by model dots"):
        run(benchmark, "sift", index=tmp_path / "i")


def test_a_broken_photo_of_the_gallery_is_an_error(tmp_path, model):
    benchmark = folders(tmp_path / "f")
    benchmark.gallery[0].path.write_bytes(b"no photo")
    with pytest.raises(DelgError, match=r"0/a\.png"):
        run(benchmark, model)


def test_queries_that_fail_are_facts_of_the_run(tmp_path, model):
    benchmark = recognition(tmp_path)
    benchmark.queries[0].path.write_bytes(b"no photo")
    result = main(benchmark, model)
    assert list(result.metadata["failed_queries"]) == ["q0.png"]
    assert result.scores.metrics["all"]["accuracy"] == pytest.approx(2 / 3)


def test_a_run_in_which_every_query_fails_is_a_run(tmp_path, model):
    benchmark = recognition(tmp_path)
    for query in benchmark.queries:
        query.path.unlink()
    result = main(benchmark, model)
    assert result.scores.metrics["all"] == {"GAP": 0, "GAP-": 0, "accuracy": 0}
    assert result.metadata["query_ms"] == {}


# --- Distractors ---


def test_distractors_are_a_folder_of_photos(tmp_path, model):
    gallery(tmp_path / "far", things=1)
    benchmark = folders(tmp_path / "f")
    result = main(benchmark, model, distractors=tmp_path / "far", out=tmp_path / "out")
    assert result.metadata["engine"]["distractors"] == 3
    assert result.metadata["gallery"] == 9
    place = result.paths["distractors/0/a.png"]
    assert place == str(tmp_path / "far" / "0" / "a.png")
    # They are extracted once.
    again = run(benchmark, model, distractors=tmp_path / "far", out=tmp_path / "out")
    assert again[0].engine.images.extractor.extracted == 9
    assert again[0].run.scores == result.scores


def test_distractors_are_an_index(tmp_path, model):
    gallery(tmp_path / "far", things=1)
    far = ImageIndex.create(tmp_path / "far.index", model)
    far.add(tmp_path / "far", prefix="far/")
    result = main(folders(tmp_path / "f"), model, distractors=tmp_path / "far.index")
    assert result.metadata["engine"]["distractors"] == 3
    assert "far/0/a.png" in result.predictions.rankings["all"]["0/a.png"].ids


def test_distractors_of_another_model_are_an_error(tmp_path, model):
    ImageIndex.create(tmp_path / "far.index", "sift").close()
    with pytest.raises(DelgError, match=r"far\.index was made by model sift"):
        run(folders(tmp_path / "f"), model, distractors=tmp_path / "far.index")


def test_distractors_called_like_photos_of_the_gallery_are_an_error(tmp_path, model):
    benchmark = folders(tmp_path / "f")
    far = ImageIndex.create(tmp_path / "far.index", model)
    far.add(tmp_path / "f")
    with pytest.raises(UsageError, match=r"far\.index: '0/a\.png'"):
        run(benchmark, model, distractors=tmp_path / "far.index")


def test_distractors_that_do_not_exist_are_an_error(tmp_path, model):
    with pytest.raises(UsageError, match="nowhere: no such folder"):
        run(folders(tmp_path / "f"), model, distractors=tmp_path / "nowhere")


# --- Baselines ---


def test_baselines_are_runs_of_their_own_on_the_same_questions(tmp_path, model):
    benchmark = folders(tmp_path / "f")
    results = run(benchmark, model, baselines=BASELINES, rerank=2)
    assert [(result.run.title, result.subfolder) for result in results] == [
        ("dots, 2 re-ranked", ""),
        ("dots, global only", "baselines/global"),
        ("sift, 2 re-ranked", "baselines/sift"),
        ("sift, all re-ranked", "baselines/sift-brute-force"),
    ]
    for result in results:
        assert result.run.benchmark.truth == benchmark.truth
        assert set(result.run.scores.queries["all"]) == set(benchmark.truth)
    bare = results[1].run.predictions.rankings["all"].values()
    assert not any(ranking.inliers.any() for ranking in bare)


def test_a_gallery_too_large_for_brute_force_goes_without(tmp_path, model, monkeypatch):
    monkeypatch.setattr("eval.evaluate.BRUTE_FORCE_LIMIT", 8)
    results = run(folders(tmp_path / "f"), model, baselines=["sift"])
    assert [result.subfolder for result in results] == ["", "baselines/sift"]


def test_an_unknown_baseline_is_an_error_before_any_work(tmp_path, model):
    with pytest.raises(UsageError, match="no baseline called 'surf'; there are global, sift"):
        run(folders(tmp_path / "f"), model, baselines=["global", "surf"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
