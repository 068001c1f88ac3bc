"""Runs written by hand, and a parser of the pages that show them."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from eval.benchmark import (
    BenchmarkSpec,
    QueryPhoto,
    RecognitionTruth,
    RetrievalTruth,
    RevisitedTruth,
)
from eval.predictions import Predictions
from eval.run import Run
from eval.scoring import score
from index.results import Ranking

VOID = {"meta", "img", "input", "br", "wbr", "link", "hr"}
HOSTILE = "<script>alert('x')</script>\"'&<b onload=x>$^{"


class Element:
    """An element with its attributes, the elements inside it, and all its words."""

    def __init__(self, tag: str, attrs: dict[str, str]) -> None:
        self.tag, self.attrs = tag, attrs
        self.children: list[Element] = []
        self.texts: list[str] = []

    @property
    def words(self) -> str:
        return " ".join("".join(self.texts).split())

    def all(self, tag: str, kind: str = "") -> list[Element]:
        matches = []
        for child in self.children:
            if child.tag == tag and (not kind or kind in child.attrs.get("class", "").split()):
                matches.append(child)
            matches += child.all(tag, kind)
        return matches

    def section(self, title: str) -> Element:
        """The section whose heading starts so."""
        for candidate in self.all("section"):
            if any(h.words.startswith(title) for h in candidate.all("h2")):
                return candidate
        raise AssertionError(f"no section {title!r}")

    def has_section(self, title: str) -> bool:
        return any(h.words.startswith(title) for h in self.all("h2"))


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Element("", {})]

    def handle_starttag(self, tag, attrs):
        assert len(attrs) == len(dict(attrs)), f"an attribute twice in <{tag}>"
        element = Element(tag, {key: value or "" for key, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.open[-1].children.append(Element(tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        for element in self.open if self.open[-1].tag != "style" else ():
            element.texts.append(data)


def parse(text: str) -> Element:
    parser = _Parser()
    parser.feed(text)
    parser.close()
    assert len(parser.open) == 1, "an element is never closed"
    return parser.open[0]


def reject_outside(text: str) -> None:
    """Fail if anything on the page comes from outside of it, or could run."""
    root = parse(text)
    ids = [
        element.attrs["id"]
        for tag in TAGS(root)
        for element in root.all(tag)
        if "id" in element.attrs
    ]
    assert len(ids) == len(set(ids))
    for tag in TAGS(root):
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form"}
        for element in root.all(tag):
            for key, value in element.attrs.items():
                assert not key.startswith("on")
                if key in {"src", "href", "xlink:href", "srcset", "action", "poster"}:
                    inside = value.startswith("#") and value[1:] in ids
                    assert inside or value.startswith("data:image/jpeg;base64,"), value[:80]
    policy = next(m for m in root.all("meta") if "http-equiv" in m.attrs).attrs["content"]
    assert "default-src 'none'" in policy and "script-src" not in policy


def TAGS(root: Element) -> set[str]:  # noqa: N802
    return {child.tag for child in root.children} | {t for c in root.children for t in TAGS(c)}


def ranking(*ids: str, top: float = 0.9) -> Ranking:
    """A ranking whose scores fall by 0.1 and whose hits have 40, 39 … inliers."""
    count = len(ids)
    scores = (top - 0.1 * np.arange(count)).astype(np.float32)
    inliers = np.arange(40, 40 - count, -1).astype(np.int32)
    verified = inliers >= 39
    probabilities = np.where(verified, 0.9, 0.2).astype(np.float32)
    return Ranking(ids, scores, inliers, probabilities, verified)


def photos(folder: Path, *names: str) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    paths = {}
    for number, name in enumerate(names):
        paths[name] = folder / f"{number}.png"
        Image.new("RGB", (80, 60), (number * 20 % 255, 90, 120)).save(paths[name])
    return paths


def run(
    benchmark: BenchmarkSpec, predictions: Predictions, title: str = "delg-lite", **changes
) -> Run:
    return Run(title, benchmark, predictions, score(benchmark, predictions), **changes)


def retrieval(truth: dict[str, set[str]], folder: Path = Path("/gone"), **changes) -> BenchmarkSpec:
    return BenchmarkSpec(
        name="shelves",
        protocol="retrieval",
        queries=tuple(QueryPhoto(query, folder / f"{query}.png") for query in truth),
        truth={query: RetrievalTruth(frozenset(right)) for query, right in truth.items()},
        **changes,
    )


def recognition(truth: dict[str, set[str]]) -> BenchmarkSpec:
    return BenchmarkSpec(
        name="landmarks",
        protocol="recognition",
        queries=tuple(QueryPhoto(query, Path(f"/gone/{query}.jpg")) for query in truth),
        truth={query: RecognitionTruth(frozenset(labels)) for query, labels in truth.items()},
    )


def revisited(truth: dict[str, tuple[set[str], set[str], set[str]]]) -> BenchmarkSpec:
    return BenchmarkSpec(
        name="roxford5k",
        protocol="revisited",
        queries=tuple(QueryPhoto(query, Path(f"/gone/{query}.jpg")) for query in truth),
        truth={q: RevisitedTruth(*map(frozenset, lists)) for q, lists in truth.items()},
    )
