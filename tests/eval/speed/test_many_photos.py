from __future__ import annotations

from pathlib import Path

import pytest

from eval.speed import ann_search, open_index, word_search
from eval.speed.harness import Bench, Row


def rows(results) -> dict[str, Row]:
    return {result.name: result for result in results if isinstance(result, Row)}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, baseline=True, quick=True, runs=2)


def test_the_ann_index_is_compared_with_raw_faiss(bench, monkeypatch):
    monkeypatch.setattr(ann_search, "_QUICK_COUNT", 3000)
    results = rows([*ann_search.search_exact(bench), *ann_search.search_million(bench)])
    assert results["search_exact"].baseline and results["search_million"].baseline
    assert results["search_million_recall"].median > 0.9
    assert results["search_million_bytes"].median < 300  # Most of it the centres of the lists.


def test_opening_is_measured_in_another_process(bench, monkeypatch):
    monkeypatch.setattr(open_index, "_QUICK_COUNT", 600)
    monkeypatch.setattr(open_index, "_RUNS", 1)
    results = rows(open_index.open_million(bench))
    assert results["open_million"].median > 0
    assert results["open_million_memory"].unit == "MiB"


def test_the_inverted_file_takes_few_bytes(bench, monkeypatch):
    monkeypatch.setattr(word_search, "_QUICK_COUNT", 1000)
    results = rows(word_search.words_million(bench)) | rows(word_search.words_thousands(bench))
    for name in ("words_15k", "words_100k", "words_million"):
        assert results[name].median > 0
        # 38 words of 10 bytes each, and some bytes for the photo.
        assert 380 < results[f"{name}_bytes"].median < 450
