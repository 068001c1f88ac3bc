"""Results and indexes as notebooks show them."""

from __future__ import annotations

import io

import pytest
from dots import dots, gallery

from index.labels import GivenLabels, Label


@pytest.fixture
def images(make_index, tmp_path):
    gallery(tmp_path / "photos", 12)
    images = make_index()
    labels = {"004.png": Label("<b>four</b>", {"room": "1", "rank": "x"})}
    images.add(tmp_path / "photos", GivenLabels(labels))
    return images


def test_reprs_are_short(images):
    result = images.query(dots(4).pixels())
    assert repr(result[0]).startswith("<Hit 1: '004.png', label='<b>four</b>', ")
    assert "verified" in repr(result[0]) and len(repr(result)) < 100
    assert "12 photos" in repr(images)
    images.close()
    assert "closed" in repr(images)


def test_html_escapes_what_people_wrote_and_shows_thumbnails(images, tmp_path):
    (tmp_path / "photos" / "001.png").unlink()
    text = images.query(dots(4).pixels())._repr_html_()
    assert "&lt;b&gt;four" in text and "<b>four" not in text
    assert text.count("data:image/jpeg;base64,") == 9


def test_tables_have_metadata_as_columns(images):
    pytest.importorskip("pandas")
    frame = images.query(dots(4).pixels()).to_pandas()
    assert list(frame["rank"]) == list(range(1, 11)) and frame["id"][0] == "004.png"
    assert (frame["room"][0], frame["metadata.rank"][0]) == ("1", "x")
    everything = images.to_pandas()
    assert len(everything) == 12 and len(images.to_pandas(where=["room=1"])) == 1


def test_a_figure_shows_query_and_hits(images, tmp_path):
    (tmp_path / "photos" / "004.png").unlink()
    result = images.query(dots(4).pixels(), k=3)
    figure = result.plot(dots(4).pixels(), hits=2)
    assert [ax.get_title().split("\n")[0] for ax in figure.axes][1:] == [
        "1. <b>four</b>", f"2. {result[1].id}",
    ]  # fmt: skip
    figure.savefig(io.BytesIO())
    assert len(images.query(dots(4).pixels(), where=["room=9"]).plot().axes) == 1
