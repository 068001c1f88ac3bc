"""A whole evaluation: the run, its baselines, its files."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import dot_benchmarks
import numpy as np
import pytest
from dot_benchmarks import folders, gallery, recognition, revisited

from delg.errors import DelgError, UsageError
from delg.types import Progress
from eval import run_queries
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
    assert engine["settings"]["verification"]["min_probability"] == 0.85
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


def test_a_broken_photo_of_the_gallery_is_a_fact_and_a_miss(tmp_path, model):
    benchmark = folders(tmp_path / "f")
    queries = tuple(query for query in benchmark.queries if query.id != "0/a.png")
    benchmark = replace(benchmark, queries=queries)
    benchmark.gallery[0].path.write_bytes(b"no photo")
    result = main(benchmark, model)
    assert list(result.metadata["failed_gallery"]) == ["0/a.png"]
    assert result.metadata["gallery"] == 8
    # Of the two right photos of each query of this thing, one can be found.
    scores = result.scores.queries["all"]
    assert scores["0/b.png"]["AP@100"] == scores["0/c.png"]["AP@100"] == 0.5
    assert scores["1/a.png"]["AP@100"] == 1


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {paths!r}
import index.index_model
from dots import DotModel
from dot_benchmarks import {kind}
import eval.run_queries as module
from eval.evaluate import EvalConfig, evaluate
from test_evaluate import quiet

index.index_model.load_model = lambda name, *_: DotModel(Path(name))
answer, left = module._answer, [2]

def answer_or_die(*values):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer(*values)

module._answer = answer_or_die
with evaluate({kind}(Path({folder!r})), EvalConfig(model={model!r}, out=Path({out!r})), quiet):
    pass
"""


@pytest.mark.parametrize("benchmark", [folders, recognition])
def test_a_killed_run_continues_and_ends_as_one_that_was_not(
    tmp_path, model, monkeypatch, benchmark
):
    asked = benchmark(tmp_path / "f")
    paths = [str(Path(__file__).parent), str(Path(dot_benchmarks.__file__).parent)]
    code = KILLED.format(
        paths=paths, kind=benchmark.__name__, folder=str(tmp_path / "f"), model=model,
        out=str(tmp_path / "run"),
    )  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(run_queries.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    answers = tmp_path / "run" / "answers.part"
    # The kill may also cut a line.
    answers.write_bytes(answers.read_bytes()[:-3])
    count = 0
    answer = run_queries._answer

    def counted(*values):
        nonlocal count
        count += 1
        return answer(*values)

    monkeypatch.setattr(run_queries, "_answer", counted)
    continued = main(asked, model, out=tmp_path / "run")
    assert count == len(asked.queries) - 1
    assert not answers.exists()
    uninterrupted = main(asked, model, out=tmp_path / "other")
    save_run(tmp_path / "run", continued)
    save_run(tmp_path / "other", uninterrupted)
    assert continued.scores == uninterrupted.scores
    files = [(tmp_path / name / "predictions.npz") for name in ("run", "other")]
    with np.load(files[0]) as ours, np.load(files[1]) as theirs:
        assert set(ours) == set(theirs)
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_answers_to_another_question_are_not_used(tmp_path, model):
    benchmark = folders(tmp_path / "f")
    with (
        pytest.raises(ZeroDivisionError),
        evaluate(benchmark, EvalConfig(model=model, out=tmp_path / "run"), quiet),
    ):
        raise ZeroDivisionError
    assert (tmp_path / "run" / "answers.part").exists()
    changed = main(benchmark, model, out=tmp_path / "run", rerank=0)
    assert changed.scores == main(benchmark, model, rerank=0).scores
    assert not any(r.verified.any() for r in changed.predictions.rankings["all"].values())


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
