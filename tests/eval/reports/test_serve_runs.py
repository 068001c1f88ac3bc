"""Pages about benchmark runs."""

from __future__ import annotations

import pytest
from dots import DotModel
from dots import gallery as dot_gallery
from pages import photos, ranking, recognition, retrieval, run
from starlette.testclient import TestClient

from eval.predictions import Predictions
from eval.reports.serve_runs import run_pages
from eval.run import Run, save_run
from index import ImageIndex
from index.serve.app import make_app
from index.serve.service import Service
from index.serve.settings import ServeSettings
from index.serve.shared_index import SharedIndex

TRUTH = {f"q{n}": {f"a{n}"} for n in range(12)}


def shelves(title: str, shift: int) -> Run:
    """A run whose query n has its right photo at rank 1 or, for each ``shift``-th query, 2."""
    rankings = {
        f"q{n}": ranking("x", f"a{n}") if n % shift == 0 else ranking(f"a{n}", "x")
        for n in range(12)
    }
    return run(retrieval(TRUTH), Predictions({"all": rankings}), title, paths={}, metadata={})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    save_run(folder / "one", shelves("first engine", 3))
    save_run(folder / "deep er" / "two & ü", shelves("second <b>engine</b>", 2))
    save_run(folder / "one" / "baselines" / "global", shelves("global only", 2))
    save_run(folder / "hidden" / "out", shelves("outside", 2))
    (folder / "broken").mkdir()
    (folder / "broken" / "metrics.json").write_text("{")
    (folder / "broken" / "predictions.npz").write_text("")
    return folder


@pytest.fixture(scope="module")
def client(folder, tmp_path_factory, dot_folder):
    place = tmp_path_factory.mktemp("index")
    dot_gallery(place / "photos", 2)
    model = DotModel(dot_folder)
    with ImageIndex.create(place / "i", str(dot_folder)) as images:
        images.use(model)
        images.add(place / "photos")
    service = Service(SharedIndex(place / "i", extractor=model), ServeSettings())
    app = make_app(service, [run_pages(folder)])
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def test_all_runs_are_listed_and_broken_ones_say_why(client):
    text = client.get("/runs").text
    for name in ("one", "deep er/two &amp; ü", "one/baselines/global", "first engine"):
        assert name in text
    assert "broken" in text and "not a JSON file" in text
    assert "<b>engine" not in text and 'href="/runs"' in client.get("/").text


def test_a_run_shows_its_numbers_curves_and_queries(client):
    page = client.get("/runs/view?run=one")
    text = page.text
    assert page.status_code == 200 and "first engine" in text and "global only" in text
    assert text.count('<svg class="chart"') == 3
    # The worst first; eight on a page.
    assert text.index(">q0<") < text.index(">q1<") and text.count('<article class="example"') == 8
    assert client.get("/runs/view?run=one&page=2").text.count('<article class="example"') == 4
    best = client.get("/runs/view?run=one&order=best").text
    assert ">q0<" not in best and ">q11<" in best
    policy = page.headers["content-security-policy"]
    assert "script-src 'self';" in policy and "style-src 'self';" in policy


def test_two_runs_are_compared(client):
    page = client.get("/runs/compare", params={"run": ["one", "deep er/two & ü"]})
    assert page.status_code == 200 and "first engine" in page.text
    assert "All runs" in page.text and "<b>engine" not in page.text
    assert "script-src" not in page.headers["content-security-policy"]
    assert client.get("/runs/compare?run=one").status_code == 422
    assert client.get("/runs/compare").status_code == 422


def test_the_whole_report_is_shown_and_made_where_there_is_none(client, folder):
    assert "Benchmark report" in client.get("/runs/report?run=one").text
    (folder / "one" / "report.html").write_text("<html>\n<body>\nkept")
    page = client.get("/runs/report?run=one").text
    assert "kept" in page and "All runs" in page


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../runs", "/etc", "one/..", "nothing", "hidden", "\0"]
)
@pytest.mark.parametrize("page", ["view", "report"])
def test_only_runs_that_are_listed_can_be_asked_for(client, page, name):
    assert client.get(f"/runs/{page}", params={"run": name}).status_code == 404
    assert client.get("/runs/compare", params={"run": ["one", name]}).status_code == 404


def test_a_recognition_run_and_an_unknown_part(client, folder, tmp_path):
    answers = {"q1": ("A", 0.9), "q2": ("B", 0.5)}
    benchmark = recognition({"q1": {"A"}, "q2": {"A"}, "q3": set()})
    save_run(folder / "landmarks", run(benchmark, Predictions({}, answers), "landmarks"))
    text = client.get("/runs/view?run=landmarks").text
    assert "GAP" in text and "That did not work" not in text
    assert client.get("/runs/view?run=one&part=hard").status_code == 404


def test_photos_that_runs_name_are_pictured(client, folder, tmp_path):
    paths = {name: str(path) for name, path in photos(tmp_path, "a0", "x").items()}
    pictured = shelves("pictured", 2)
    save_run(
        folder / "pictured", run(pictured.benchmark, pictured.predictions, "pictured", paths=paths)
    )
    assert "data:image/jpeg;base64," in client.get("/runs/view?run=pictured").text
