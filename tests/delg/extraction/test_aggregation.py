"""VLAD, ASMK, ASMK* and the regional forms, on cases worked out by hand."""

import numpy as np
import pytest

from delg.extraction.aggregation import (
    WordVectors,
    asmk,
    asmk_similarity,
    asmk_star_similarity,
    binarize,
    regional_vlad,
    selectivity,
    sum_residuals,
    vlad,
    vlad_similarity,
)

# Two words at (0, 0) and (10, 0).
CENTROIDS = np.array([[0, 0], [10, 0]], np.float32)


def residuals(points: list, words: list | None = None) -> WordVectors:
    descriptors = np.array(points, np.float32).reshape(-1, 2)
    nearest = (descriptors[:, :1] > 5).astype(int) if words is None else np.array(words)
    return sum_residuals(descriptors, nearest, CENTROIDS)


def test_residuals_are_summed_by_word():
    # Word 0: (3, 0) + (0, 4); word 1: (11, 2) − (10, 0).
    sums = residuals([(11, 2), (3, 0), (0, 4)])
    assert sums.words.tolist() == [0, 1]
    assert sums.vectors.tolist() == [[3, 4], [1, 2]]
    # With two assignments each point counts for both words.
    both = residuals([(3, 0)], [[0, 1]])
    assert both.words.tolist() == [0, 1] and both.vectors.tolist() == [[3, 0], [-7, 0]]
    assert len(residuals([])) == 0


def test_vlad_has_unit_length_over_all_words():
    # |(3, 4, 1, 2)|² = 30; the other has word 0 alone, (0, 1).
    first, second = vlad(residuals([(3, 0), (0, 4), (11, 2)])), vlad(residuals([(0, 7)]))
    assert np.linalg.norm(first.vectors) == pytest.approx(1)
    assert vlad_similarity(first, second) == pytest.approx(4 / np.sqrt(30))
    assert vlad_similarity(first, first) == pytest.approx(1)
    assert vlad_similarity(first, vlad(residuals([(12, 0)]))) == pytest.approx(1 / np.sqrt(30))


def test_asmk_scales_each_word_and_selects():
    # Word 0: (.6, .8) · (0, 1) = .8, σ = .512; word 1 is in the first photo alone. √(2 · 1).
    first, second = asmk(residuals([(3, 0), (0, 4), (11, 2)])), asmk(residuals([(0, 7)]))
    assert np.linalg.norm(first.vectors, axis=1) == pytest.approx([1, 1])
    assert asmk_similarity(first, second) == pytest.approx(0.512 / np.sqrt(2))
    assert asmk_similarity(first, second, alpha=1) == pytest.approx(0.8 / np.sqrt(2))
    assert asmk_similarity(first, second, tau=0.8) == 0
    # Opposite residuals count for nothing, not against.
    assert asmk_similarity(asmk(residuals([(0, -1)])), second) == 0
    assert asmk_similarity(first, first) == pytest.approx(1)
    assert asmk_similarity(first, asmk(residuals([]))) == 0
    # Residuals that cancel leave no word.
    assert len(asmk(residuals([(2, 1), (-2, -1)]))) == 0


def test_asmk_star_compares_signs():
    rng = np.random.default_rng(0)
    signs = np.where(rng.random((2, 16)) < 0.5, -1, 1).astype(np.float32)
    signs[1, :14], signs[1, 14:] = signs[0, :14], -signs[0, 14:]
    words = np.array([3, 8])
    first = WordVectors(words, np.stack([signs[0], signs[0]]))
    second = WordVectors(np.array([8, 9]), np.stack([signs[1], signs[0]]))
    # One common word; 2 of 16 signs differ: u = 1 − 2 · 2 / 16 = .75, over √(2 · 2).
    assert asmk_star_similarity(first, second) == pytest.approx(0.75**3 / 2)
    assert asmk_star_similarity(first, first) == pytest.approx(1)
    # 5 of 10 differ: u = 0; the bits that fill up the last byte do not count.
    half = WordVectors(np.array([3]), np.array([[1, 1, 1, 1, 1, -1, -1, -1, -1, -1]], np.float32))
    ones = WordVectors(np.array([3]), np.ones((1, 10), np.float32))
    assert asmk_star_similarity(half, ones) == 0
    most = WordVectors(np.array([3]), np.array([[1] * 9 + [-1]], np.float32))
    assert asmk_star_similarity(most, ones) == pytest.approx(0.8**3)


def test_bits_are_packed_most_significant_first_and_zero_is_no_one():
    vectors = np.array([[1, -1, 0.5, 0, -2, -3, -1, 2, 1]], np.float32)
    assert binarize(vectors).tolist() == [[0b10100001, 0b10000000]]


def test_selectivity():
    u = np.array([-0.5, 0, 0.25, 0.5, 1], np.float32)
    assert selectivity(u) == pytest.approx([0, 0, 0.015625, 0.125, 1])
    assert selectivity(u, alpha=1, tau=0.25) == pytest.approx([0, 0, 0, 0.5, 1])


def test_regions_are_averaged_after_each_has_unit_length():
    # The whole photo: word 0 (3, 4) and word 1 (0, 5), of length √50; a region: word 0 (0, 2).
    whole, region = residuals([(3, 4), (10, 5)]), residuals([(0, 2)])
    mean = regional_vlad([whole, region])
    root = np.sqrt(50)
    assert mean.words.tolist() == [0, 1]
    expected = np.array([[3 / root / 2, (4 / root + 1) / 2], [0, 5 / root / 2]])
    assert mean.vectors == pytest.approx(expected, abs=1e-6)
    # A region of its own weighs as much as the photo that has many more features.
    assert regional_vlad([whole]).vectors == pytest.approx(vlad(whole).vectors)
    with pytest.raises(ValueError, match="one region at least"):
        regional_vlad([])
    # R-ASMK: each word of the mean has unit length; the query is one region.
    query = asmk(residuals([(0, 1)]))
    u = (4 / root + 1) / np.hypot(3 / root, 4 / root + 1)
    assert asmk_similarity(query, asmk(mean)) == pytest.approx(u**3 / np.sqrt(2))
    assert asmk_star_similarity(query, asmk(mean)) == pytest.approx(0)
