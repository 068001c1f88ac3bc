"""The paper's matching and re-ranking, against a plain transcription of what it says."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree
from skimage.measure import ransac
from skimage.transform import AffineTransform

from delg.settings import parse, read_settings, read_yaml
from delg.types import ImageFeatures, LocalFeatures
from index import IndexSettings
from index.results import Verification
from index.search.scoring import score
from index.settings import RankingSettings
from index.verification.pair import verify_features

CONFIGS = Path(__file__).parents[2] / "configs"
PAPER = read_settings(IndexSettings, CONFIGS / "paper.yaml")


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def pair(rng, transform, shared: int, others: int) -> tuple[ImageFeatures, ImageFeatures]:
    """Two photos of one thing: ``shared`` features moved by an affine transform, others alone."""
    size = np.array([900, 500])
    points = rng.random((shared + others, 2)) * size
    moved = np.c_[points, np.ones(len(points))] @ np.asarray(transform)[:2].T
    moved[shared:] = rng.random((others, 2)) * size
    moved += rng.normal(0, 2, moved.shape)
    descriptors = unit(rng.normal(size=(shared + others, 16)))
    noisy = unit(descriptors + rng.normal(0, 0.1, descriptors.shape))
    noisy[shared:] = unit(rng.normal(size=(others, 16)))
    return tuple(
        ImageFeatures(
            unit(rng.normal(size=8)),
            LocalFeatures(
                keypoints.astype(np.float32),
                vectors,
                np.ones(len(vectors), np.float32),
                np.ones(len(vectors), np.float32),
            ),
            900,
            500,
        )
        for keypoints, vectors in ((points, descriptors), (moved, noisy))
    )  # type: ignore[return-value]


def published(query: ImageFeatures, other: ImageFeatures, seed: int = 0) -> int:
    """Inliers as the paper counts them; (y, x) as in its arrays."""
    tree = cKDTree(other.local.descriptors)
    _, nearest = tree.query(query.local.descriptors, distance_upper_bound=1.0)
    matched = nearest < len(other.local)
    if matched.sum() <= 3:
        return 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, inliers = ransac(
            (
                other.local.keypoints[nearest[matched], ::-1].astype(np.float64),
                query.local.keypoints[matched, ::-1].astype(np.float64),
            ),
            AffineTransform,
            min_samples=3,
            residual_threshold=20,
            max_trials=1000,
            rng=np.random.default_rng(seed),
        )
    return 0 if inliers is None else int(inliers.sum())


ZOOM = [[1.6, 0.2, -300], [-0.1, 0.5, 60], [0, 0, 1]]
MIRROR = [[-1, 0, 900], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("transform", [np.eye(3), ZOOM, MIRROR], ids=["same", "zoom", "mirror"])
@pytest.mark.parametrize(("shared", "others"), [(60, 60), (20, 150), (5, 0), (3, 0), (0, 90)])
def test_inliers_are_those_of_the_paper(transform, shared: int, others: int) -> None:
    query, other = pair(np.random.default_rng(shared), transform, shared, others)
    assert verify_features(query, other, PAPER).inliers == published(query, other)


def test_the_threshold_is_in_pixels_of_the_query() -> None:
    # Three times larger in the other photo: up to 25 px of noise there are 8 px in the query.
    rng = np.random.default_rng(1)
    query, other = pair(rng, np.diag([3.0, 3.0, 1.0]), 80, 0)
    noisy = other.local.keypoints + rng.uniform(-25, 25, (80, 2)).astype(np.float32)
    local = LocalFeatures(
        noisy, *(getattr(other.local, n) for n in ("descriptors", "scales", "scores"))
    )
    moved = ImageFeatures(other.global_descriptor, local, 2700, 1500)
    assert verify_features(query, moved, PAPER).inliers == published(query, moved) > 75


def test_the_transform_still_maps_the_query_to_the_other_photo() -> None:
    query, other = pair(np.random.default_rng(2), ZOOM, 100, 20)
    transform = verify_features(query, other, PAPER).transform
    assert transform is not None
    np.testing.assert_allclose(transform[:, :2], np.array(ZOOM)[:, :2], atol=0.05)


def test_the_order_is_inliers_then_similarity() -> None:
    settings = RankingSettings(order="inliers")
    rng = np.random.default_rng(0)
    answers = [(int(rng.integers(0, 6)), float(rng.uniform(-1, 1))) for _ in range(100)]
    answers += [(0, 1.0), (1, -1.0), (2, 1.0), (3, -1.0)]

    def value(inliers: int, similarity: float) -> float:
        matches = np.zeros((inliers, 2), np.int32)
        return score(similarity, Verification(inliers, 0.0, inliers >= 4, None, matches), settings)

    ranked = sorted(answers, key=lambda answer: -value(*answer))
    assert ranked == sorted(answers, key=lambda answer: (-answer[0], -answer[1]))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*-gldv2-*.yaml")), ids=lambda p: p.stem)
def test_configs_of_published_tables_are_the_papers_and_keep_descriptors_exact(path) -> None:
    settings = parse(IndexSettings, read_yaml(path), str(path))
    same = ("matching", "verification", "reverification", "ranking")
    assert all(getattr(settings, name) == getattr(PAPER, name) for name in same)
    assert settings.store.local_codec == "float32"
    assert "Expected mAP" in path.read_text()


def test_the_published_tables_all_have_a_config() -> None:
    assert len(list(CONFIGS.glob("*-gldv2-*.yaml"))) == 4
