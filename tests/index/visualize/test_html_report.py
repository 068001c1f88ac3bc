import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delg.errors import DelgError
from index.results import Hit, QueryResult
from index.visualize import html_report as page
from index.visualize.draw_matches import side_by_side
from index.visualize.html_report import render_html_report, write_html_report

VOID = {"meta", "img", "input", "br", "link", "hr"}
HOSTILE = "<script>alert('x')</script>\"'&<b onload=x>"


class Tree(HTMLParser):
    """Every element with its attributes, and whether tags nest as they must."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len(attrs) == len(dict(attrs)), f"an attribute twice in <{tag}>"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if "style" not in self.open:
            self.words += data

    def all(self, tag: str, kind: str = "") -> list[dict[str, str | None]]:
        return [
            attrs
            for name, attrs in self.elements
            if name == tag and (not kind or kind in (attrs.get("class") or "").split())
        ]


def pixels(width: int = 80, height: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photos" / "hit.jpg"
    path.parent.mkdir()
    Image.fromarray(pixels(120, 90, 1)).save(path)
    return path


def hit(photo: Path, rank: int = 1, points: int = 0, **changes) -> Hit:
    rng = np.random.default_rng(rank)
    base = Hit(
        rank=rank,
        id=f"set/{rank}.jpg",
        path=str(photo),
        label=None,
        score=1.5,
        similarity=0.8125,
        inliers=points,
        probability=0.97 if points else 0.03,
        verified=points > 0,
        transform=None,
        query_points=rng.uniform(0, 60, (points, 2)).astype(np.float32),
        points=rng.uniform(0, 60, (points, 2)).astype(np.float32),
        width=120,
        height=90,
    )
    return replace(base, **changes)


def result(*hits: Hit, **changes) -> QueryResult:
    timing = {"extract": 120.0, "search": 0.4, "rerank": 1500.0}
    return replace(QueryResult(hits, "delg-lite", 0, 80, 60, None, timing), **changes)


def render(*hits: Hit, name: str = "q.jpg", title: str = page.TITLE, **changes) -> str:
    return render_html_report([(name, pixels(), result(*hits, **changes))], title)


def line_ends(text: str) -> list[list[float]]:
    paths = [p["d"] or "" for p in Tree(text).all("path", "line")]
    return [[float(number) for number in re.findall(r"[-\d.]+", path)] for path in paths]


def test_the_page_is_well_formed_and_complete(photo):
    text = render(hit(photo, 1, 30), hit(photo, 2, label="Mona Lisa"), title="My title")
    tree = Tree(text)
    assert text.startswith("<!doctype html>")
    for words in ("My title", "q.jpg", "delg-lite", "set/1.jpg", "set/2.jpg", "Mona Lisa"):
        assert words in tree.words
    for words in ("97.0%", "0.812", "30 matches", "120 ms", "0.4 ms", "1.5 s", "1.6 s"):
        assert words in tree.words
    ids = [attrs["id"] for _, attrs in tree.elements if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_every_link_and_picture_is_inside_the_file(photo):
    tree = Tree(render(hit(photo, 1, 30), hit(photo, 2)))
    ids = {attrs["id"] for _, attrs in tree.elements if "id" in attrs}
    for tag, attrs in tree.elements:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form"}
        for key in ("src", "href", "xlink:href", "srcset", "action", "poster"):
            address = attrs.get(key)
            if address is not None:
                inside = address.startswith("#") and address[1:] in ids
                assert inside or address.startswith("data:image/jpeg;base64,")


def test_nothing_outside_is_named_and_the_policy_forbids_it(photo):
    text = render(hit(photo, 1, 30))
    for word in ("http:", "https:", "//", "url(", "@import"):
        assert word not in re.sub(r"base64,[A-Za-z0-9+/=]*", "", text)
    policy = next(m for m in Tree(text).all("meta") if m.get("http-equiv"))["content"] or ""
    for part in ("default-src 'none'", "img-src data:", "style-src 'unsafe-inline'"):
        assert part in policy
    assert "script-src" not in policy


def test_texts_from_outside_stay_texts(photo):
    match = hit(
        photo,
        points=20,
        id=HOSTILE,
        label=HOSTILE,
        path=f"/no/{HOSTILE}",
        metadata={HOSTILE: HOSTILE},
    )
    shown = replace(match, path=str(photo))
    plain = render(hit(photo, points=20, label="x", metadata={"a": "b"}), name="q", title="t")
    for variant in (match, shown):
        tree = Tree(
            render(variant, name=HOSTILE, title=HOSTILE, model=HOSTILE, timing_ms={HOSTILE: 1.0})
        )
        assert not tree.all("script") and not tree.all("b")
        assert not [attrs for _, attrs in tree.elements if "onload" in attrs]
        assert tree.words.count(HOSTILE) >= 7
    # The hostile page has not one kind of element that the plain one lacks.
    kinds = {tag for tag, _ in Tree(plain).elements}
    assert {tag for tag, _ in tree.elements} <= kinds
    assert tree.all("img")[0]["alt"] == f"Hit 1: {HOSTILE}, {HOSTILE}"


def test_names_that_are_no_text_can_be_written(photo, tmp_path):
    strange = "caf\udce9\x00.jpg"
    write_html_report(tmp_path / "a.html", [(strange, pixels(), result(hit(photo, id=strange)))])
    assert "caf\\udce9" in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_lines_lie_where_the_points_are(photo):
    query_points = np.array([(-0.5, -0.5), (79.5, 59.5), (9.5, 29.5)], np.float32)
    points = np.array([(119.5, 89.5), (-0.5, -0.5), (59.5, 44.5)], np.float32)
    match = hit(photo, points=3, query_points=query_points)
    match = replace(match, points=points)
    layout = side_by_side((80, 60), (120, 90), page.PHOTO_SIDE)
    right, width, height = layout.hit.x, layout.width, layout.height
    assert line_ends(render(match)) == [
        [0, 0, width, height],
        [layout.query.width, height, right, 0],
        [layout.query.width / 8, height / 2, right + layout.hit.width / 2, height / 2],
    ]


def test_points_follow_the_photo_as_it_was_indexed(tmp_path, photo):
    match = hit(photo, points=12)
    before = line_ends(render(match))
    Image.fromarray(pixels(240, 180, 1)).save(photo)
    assert line_ends(render(match)) == before


def test_too_many_matches_are_sampled_evenly_and_said_so(photo):
    text = render(hit(photo, points=420))
    assert len(line_ends(text)) == page.MAX_LINES == 150
    assert "150 of 420 matches shown" in Tree(text).words
    few = render(hit(photo, points=150))
    assert len(line_ends(few)) == 150
    assert "All 150 matches shown" in Tree(few).words


def test_only_verified_hits_get_a_view_and_only_the_first_ones(photo):
    weak = hit(photo, 1, 9, verified=False)
    strong = [hit(photo, rank, 20) for rank in range(2, 9)]
    text = render(weak, *strong)
    tree = Tree(text)
    assert len(tree.all("details", "proof")) == page.MAX_VIEWS
    assert f"Drawn for the first {page.MAX_VIEWS} of 7 verified hits." in tree.words
    assert "query-1-matches-1" not in text
    assert len([d for d in tree.all("details", "proof") if "open" in d]) == 1


def test_verified_is_told_in_words(photo):
    words = Tree(render(hit(photo, 1, 20), hit(photo, 2))).words
    assert len(re.findall(r"\bVerified\b", words)) == 1
    assert len(re.findall(r"\bNot verified\b", words)) == 1


def test_a_photo_that_has_gone_or_is_damaged_gives_the_reason(photo, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    gone = hit(photo, 1, 20, path=str(tmp_path / "gone.jpg"))
    text = render(gone, hit(photo, 2, path=str(tmp_path / "bad.jpg")), hit(photo, 3, 20))
    tree = Tree(text)
    assert "No picture: no such file" in tree.words
    assert len(tree.all("p", "missing")) == 2
    assert len(tree.all("img")) == 1
    assert len(tree.all("details", "proof")) == 1


def test_box_orientation_and_metadata_are_shown(photo):
    match = hit(photo, points=20, metadata={"painter": "Vermeer"})
    text = render(match, box=(8.0, 6.0, 40.0, 30.0), orientation=90)
    tree = Tree(text)
    assert "40 × 30 px at 8, 6" in tree.words
    assert "90° counter-clockwise" in tree.words
    assert "painter" in tree.words and "Vermeer" in tree.words
    own, view = tree.all("rect", "frame-light")
    assert [float(own[key] or 0) for key in ("x", "y", "width", "height")] == [8, 6, 40, 30]
    scale = page.PHOTO_SIDE / 80
    assert float(view["x"] or 0) == pytest.approx(8 * scale, abs=0.1)
    assert not Tree(render(match)).all("rect", "frame-light")


def test_every_picture_has_words(photo):
    tree = Tree(render(hit(photo, 1, 20), hit(photo, 2)))
    assert all(image.get("alt") for image in tree.all("img"))
    for drawing in tree.all("svg"):
        assert drawing.get("aria-hidden") == "true" or drawing.get("aria-label")


def test_no_queries_and_no_hits_still_make_a_page():
    assert "There are no queries to show." in Tree(render_html_report([])).words
    assert "No hits for this query" in Tree(render()).words


def test_large_photos_are_shrunk_and_one_photo_is_stored_once(tmp_path):
    path = tmp_path / "large.jpg"
    Image.fromarray(pixels(3000, 2000, 2)).save(path)
    hits = [hit(path, rank, 20, width=3000, height=2000) for rank in (1, 2, 3)]
    results = [(f"q{n}.jpg", pixels(2000, 3000), result(*hits)) for n in range(2)]
    tree = Tree(render_html_report(results))
    stored = tree.all("image")
    assert len(stored) == 3
    for image in stored:
        assert max(int(image["width"] or 0), int(image["height"] or 0)) == page.PHOTO_SIDE
    for image in tree.all("img"):
        assert max(int(image["width"] or 0), int(image["height"] or 0)) == page.THUMBNAIL_SIDE
    assert len(tree.all("nav")) == 1


def test_writing_replaces_the_file_as_a_whole(photo, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    write_html_report(path, [("q.jpg", pixels(), result(hit(photo)))], title="New")
    assert path.read_text(encoding="utf-8") == render(hit(photo), title="New")
    assert {p.name for p in tmp_path.iterdir()} == {"report.html", "photos"}


def test_a_path_that_cannot_be_written_is_named(photo, tmp_path):
    with pytest.raises(DelgError, match=r"missing.a\.html"):
        write_html_report(tmp_path / "missing" / "a.html", [("q", pixels(), result(hit(photo)))])
