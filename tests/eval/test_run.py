"""Runs on disk: what was asked and answered comes back, and the numbers can be made anew."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from delg.errors import DelgError, UsageError
from eval.benchmark import (
    Benchmark,
    BenchmarkSpec,
    QueryPhoto,
    RecognitionTruth,
    RetrievalTruth,
    RevisitedTruth,
)
from eval.predictions import Predictions, plain_ranking
from eval.run import Run, baselines, environment_info, is_run, load_run, rescore, save_run
from eval.scoring import score

QUERIES = (
    QueryPhoto("q", Path("/photos/q.jpg"), box=(1.5, 2.0, 30.0, 40.25)),
    QueryPhoto("ü/r.jpg", Path("/photos/ü/r.jpg"), gallery_id="ü/r.jpg"),
)
TRUTHS = {
    "revisited": {
        "q": RevisitedTruth(frozenset({"a", "b"}), frozenset({"c"}), frozenset()),
        "ü/r.jpg": RevisitedTruth(frozenset("a"), frozenset(), frozenset("b")),
    },
    "retrieval": {
        "q": RetrievalTruth(frozenset({"a", "b"}), "Public"),
        "ü/r.jpg": RetrievalTruth(frozenset(), "Private"),
    },
    "recognition": {
        "q": RecognitionTruth(frozenset({"1", "2"}), "Private"),
        "ü/r.jpg": RecognitionTruth(frozenset()),
    },
}


def make(protocol: str, depth: int | None = 100) -> Run:
    benchmark = BenchmarkSpec(
        name="Tëst",
        protocol=protocol,
        queries=QUERIES,
        truth=TRUTHS[protocol],
        recalls=(1, 20),
        depth=depth,
    )
    lists = ("easy", "medium", "hard") if protocol == "revisited" else ("all",)
    rankings = {
        name: {"q": plain_ranking(("x", "a", "b")), "ü/r.jpg": plain_ranking(("a",))}
        for name in lists
    }
    labels = {"q": ("1", 1.25), "ü/r.jpg": ("7", 0.5)} if protocol == "recognition" else {}
    predictions = Predictions(rankings, labels)
    facts = {"engine": {"rerank": 100}, "seconds": 1.5, "failed_queries": {}}
    scores = score(benchmark, predictions)
    return Run("delg-lite", benchmark, predictions, scores, {"a": "/photos/a.jpg"}, facts)


@pytest.fixture(params=TRUTHS)
def saved(request, tmp_path) -> tuple[Run, Path]:
    """A run of each protocol, and its folder."""
    run = make(request.param)
    save_run(tmp_path / "run", run)
    return run, tmp_path / "run"


def test_a_run_comes_back_as_it_was_saved(saved):
    run, folder = saved
    loaded = load_run(folder)
    assert loaded.benchmark == run.benchmark
    assert (loaded.title, loaded.paths, loaded.metadata) == (run.title, run.paths, run.metadata)
    assert loaded.scores == run.scores
    assert loaded.predictions.labels == run.predictions.labels
    for name, by_query in run.predictions.rankings.items():
        assert {q: ranking.ids for q, ranking in loaded.predictions.rankings[name].items()} == {
            q: ranking.ids for q, ranking in by_query.items()
        }


@pytest.mark.parametrize("depth", [None, 7])
def test_the_depth_that_was_asked_for_is_kept(tmp_path, depth):
    save_run(tmp_path, make("retrieval", depth))
    assert load_run(tmp_path).benchmark.depth == depth


def test_a_benchmark_is_kept_without_its_gallery(tmp_path):
    run = make("retrieval")
    benchmark = run.benchmark
    benchmark = Benchmark(
        **{name: getattr(benchmark, name) for name in ("name", "protocol", "queries", "truth")},
        gallery=(),
        labels={"a": "1"},
    )
    save_run(tmp_path, replace(run, benchmark=benchmark))
    loaded = load_run(tmp_path).benchmark
    assert type(loaded) is BenchmarkSpec
    assert loaded.truth == benchmark.truth and loaded.queries == benchmark.queries


def test_numbers_that_were_tampered_with_are_made_right_again(saved):
    run, folder = saved
    path = folder / "metrics.json"
    numbers = json.loads(path.read_text())
    for part in numbers["metrics"].values():
        part.update(dict.fromkeys(part, 0.999))
    numbers["per_query"] = {}
    path.write_text(json.dumps(numbers))
    tampered = load_run(folder)
    assert tampered.scores != run.scores
    again = rescore(tampered)
    assert again.scores == run.scores
    save_run(folder, again)
    assert load_run(folder).scores == run.scores
    assert load_run(folder).metadata == run.metadata


def test_answers_that_do_not_belong_to_the_benchmark_are_an_error(tmp_path):
    run = make("retrieval")
    save_run(tmp_path, run)
    path = tmp_path / "benchmark.json"
    values = json.loads(path.read_text())
    del values["truth"]["q"]
    path.write_text(json.dumps(values))
    with pytest.raises(UsageError, match="'q'"):
        rescore(load_run(tmp_path))


def test_metrics_json_has_the_numbers_and_where_they_come_from(saved):
    run, folder = saved
    numbers = json.loads((folder / "metrics.json").read_text("utf-8"))
    assert numbers["format"] == 1
    assert (numbers["title"], numbers["benchmark"]) == ("delg-lite", "Tëst")
    assert numbers["protocol"] == run.benchmark.protocol
    assert numbers["metrics"] == run.scores.metrics
    assert numbers["per_query"] == run.scores.queries
    assert (numbers["engine"], numbers["seconds"]) == ({"rerank": 100}, 1.5)


def test_the_circumstances_are_versions_machine_command_time_and_code(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/cli.py", "eval", "folders", "photos"])
    info = environment_info()
    assert info["command"] == "delg eval folders photos"
    assert info["versions"]["numpy"] == np.__version__
    assert {"python", "tensorflow", "faiss-cpu"} < set(info["versions"])
    assert "cores" in info["machine"]
    assert info["finished"].endswith("+00:00")
    assert info["git"] is None or len(info["git"]["commit"]) == 40
    json.dumps(info)


def test_without_git_there_is_no_state_of_it(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert environment_info()["git"] is None


def test_baselines_are_the_runs_below_in_order(tmp_path):
    save_run(tmp_path, make("retrieval"))
    for name in ("sift", "global"):
        save_run(tmp_path / "baselines" / name, make("retrieval"))
    (tmp_path / "baselines" / "empty").mkdir()
    assert [place.name for place in baselines(tmp_path)] == ["global", "sift"]
    assert is_run(tmp_path) and not is_run(tmp_path / "baselines")


# --- Folders that are not what they should be ---


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DelgError, match="file/run: cannot be created"):
        save_run(tmp_path / "file" / "run", make("retrieval"))


FILES = ("metrics.json", "benchmark.json", "predictions.npz")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(saved, name):
    _, folder = saved
    (folder / name).unlink()
    with pytest.raises(UsageError, match=f"run/{name}: cannot be read"):
        load_run(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("contents", [b"", b"\xff\xfe\0", b'{"format": 1', b"[" * 100_000, b"[1]"])
def test_a_damaged_file_is_named(saved, name, contents):
    _, folder = saved
    (folder / name).write_bytes(contents)
    with pytest.raises(UsageError, match=f"run/{name}"):
        load_run(folder)


def keys(values: object, path: tuple = ()) -> list[tuple]:
    """The path of every value in plain values."""
    inner = values.items() if isinstance(values, dict) else ()
    return [
        keys_below
        for key, value in inner
        for keys_below in ((*path, key), *keys(value, (*path, key)))
    ]


@pytest.mark.parametrize("name", FILES[:2])
@pytest.mark.parametrize("wrong", [None, 7, "text", [1], {"x": {"y": 1}}])
def test_values_of_another_kind_are_damage_or_do_no_harm(saved, name, wrong):
    _, folder = saved
    path = folder / name
    text = path.read_text()
    for *outer, last in keys(json.loads(text)):
        values = inner = json.loads(text)
        for key in outer:
            inner = inner[key]
        inner[last] = wrong
        path.write_text(json.dumps(values))
        try:
            loaded = load_run(folder)
        except UsageError as error:
            assert str(folder) in str(error) and "\n" not in str(error)
            continue
        if name == "benchmark.json":
            with suppress(UsageError):
                rescore(loaded)


def test_a_run_of_a_newer_version_says_so(saved):
    _, folder = saved
    numbers = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps({**numbers, "format": 2}))
    with pytest.raises(UsageError, match="run: a run of format 2; this version reads 1"):
        load_run(folder)
