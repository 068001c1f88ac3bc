"""Each method against cases worked by hand, or against its formula written out naively."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.search.refinement import PUBLISHED, Neighbourhood, get_refinement
from index.search.refinement.augmentation import NeighbourAugmentation, is_reciprocal
from index.search.refinement.diffusion import Diffusion
from index.search.refinement.expansion import QueryExpansion
from index.search.refinement.k_reciprocal import KReciprocal
from index.search.refinement.superglobal import SuperGlobal
from index.settings import NeighboursSettings


def unit(rows):
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def neighbourhood(query, photos, seeds=()):
    photos = unit(photos)
    proven = np.isin(np.arange(len(photos)), seeds)
    return Neighbourhood(unit(query), photos, proven)


def scenes(seed, count=40, dim=24, groups=5):
    """Photos of a few things, and a query of the first."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(groups, dim))
    photos = centres[random.integers(groups, size=count)] + random.normal(size=(count, dim))
    return neighbourhood(centres[0] + random.normal(size=dim), photos)


# Query expansion. The query is (1, 0); a photo at (.8, .6), the other at (0, 1).


def test_average_query_expansion_adds_the_nearest():
    result = QueryExpansion(expand=1, alpha=0).refine(neighbourhood([1, 0], [[0.8, 0.6], [0, 1]]))
    # q' = (1.8, .6)
    assert result == pytest.approx([1.8, 0.6])


def test_alpha_query_expansion_weighs_by_a_power_of_similarity():
    result = QueryExpansion(expand=2, alpha=3).refine(neighbourhood([1, 0], [[0.8, 0.6], [0, 1]]))
    # Weights .512 and 0: q' = (1.4096, .3072)
    assert result == pytest.approx([1.312, 0.3072])


def test_proven_photos_weigh_as_much_as_the_query():
    place = neighbourhood([1, 0], [[0.8, 0.6], [0, 1]], seeds=[1])
    # q' = (1, 0) + .512 (.8, .6) + (0, 1)
    assert QueryExpansion(expand=1, alpha=3).refine(place) == pytest.approx([1.912, 1.3072])


# Augmentation.


def test_augmentation_by_hand():
    # Three photos at 0°, 60° and 120° from the query; each has the next at a similarity of .5.
    place = neighbourhood([1, 0], [[1, 0], [0.5, np.sqrt(0.75)], [-0.5, np.sqrt(0.75)]])
    result = NeighbourAugmentation(augment=3, expand=1, alpha=1).refine(place)
    # First and second joined with weights 1 and .5, the third with weight 0:
    first = unit([1.25, np.sqrt(0.75) / 2])
    second = unit([0.5 + 0.5 - 0.25, np.sqrt(0.75) * 1.5])
    third = unit([-0.25, np.sqrt(0.75) * 1.5])
    expanded = np.array([1, 0]) + first[0] * first
    assert result == pytest.approx([x @ expanded for x in (first, second, third)], abs=1e-6)


@given(st.integers(0, 1000), st.integers(1, 50), st.integers(0, 50), st.sampled_from([1, 2, 3]))
@settings(max_examples=20, deadline=None)
def test_augmentation_is_what_its_formula_says(seed, augment, expand, alpha):
    place = scenes(seed)
    augmented = []
    for row in place.descriptors:
        similarities = place.descriptors @ row
        near = np.argsort(-similarities)[:augment]
        weights = np.maximum(similarities[near], 0) ** alpha
        augmented.append(unit((weights[:, None] * place.descriptors[near]).sum(axis=0)))
    similarities = np.array(augmented) @ place.query
    expanded = place.query.copy()
    for number in np.argsort(-similarities)[:expand]:
        expanded += max(similarities[number], 0) ** alpha * augmented[number]
    result = NeighbourAugmentation(augment, expand, alpha, len(place)).refine(place)
    assert result == pytest.approx(np.array(augmented) @ expanded, abs=1e-4)


def test_only_photos_that_have_the_query_among_their_nearest_join_it():
    # A query between two bunches of photos, one near and one far; nobody's neighbour but the first.
    bunch = np.array([[0.7, 0.71], [0.69, 0.72], [0.68, 0.73], [0.67, 0.74]])
    place = neighbourhood([1, 0], [[0.9, -0.43], *bunch])
    assert list(is_reciprocal(place, 1)) == [True, False, False, False, False]
    assert list(is_reciprocal(place, 4)) == [True] * 5
    alone = NeighbourAugmentation(augment=1, expand=5, alpha=3, reciprocal=1).refine(place)
    joined = QueryExpansion(expand=1, alpha=3).refine(place)
    assert alone == pytest.approx(joined, abs=1e-6)
    # Geometry's word counts for more.
    proven = Neighbourhood(place.query, place.descriptors, np.arange(5) == 2)
    seeded = QueryExpansion(expand=1, alpha=3).refine(proven)
    assert NeighbourAugmentation(1, 5, 3, 1).refine(proven) == pytest.approx(seeded, abs=1e-6)


def test_a_query_that_nothing_is_near_to_is_not_led_away():
    """Photos of other things in bunches: near to each other, and equally far from the query."""
    place = scenes(7, count=60, dim=64, groups=3)
    stranger = neighbourhood(np.random.default_rng(1).normal(size=64), place.descriptors)
    assert not is_reciprocal(stranger, 10).any()
    refined = NeighbourAugmentation(augment=1).refine(stranger)
    assert refined == pytest.approx(stranger.similarities, abs=1e-6)


# SuperGlobal.


def test_superglobal_is_what_its_formula_says():
    place = scenes(1)
    refined = []
    for number, row in enumerate(place.descriptors):
        similarities = place.descriptors @ row
        others = [j for j in np.argsort(-similarities) if j != number][:9]
        total = row + sum(0.15 * similarities[j] * place.descriptors[j] for j in others)
        refined.append(total / (1 + sum(0.15 * similarities[j] for j in others)))
    refined = np.array(refined)
    similarities = refined @ place.query
    leaders = np.argsort(-similarities)[:10]
    expected = (similarities + refined @ refined[leaders].max(axis=0)) / 2
    assert SuperGlobal().refine(place) == pytest.approx(expected, abs=1e-5)


# k-reciprocal encoding, in the words of its paper: sets, one photo at a time.


def k_reciprocal_distance(similarities, k1, k2, weight):
    count = len(similarities)
    distances = 2 - 2 * similarities
    distances = distances / distances.max(axis=1, keepdims=True)
    order = np.argsort(-similarities, axis=1, kind="stable")

    def reciprocal(photo, k):
        return {int(j) for j in order[photo, : k + 1] if photo in order[j, : k + 1]}

    encoding = np.zeros((count, count))
    for photo in range(count):
        members = reciprocal(photo, k1)
        for member in list(members):
            candidates = reciprocal(member, round(k1 / 2))
            if len(candidates & reciprocal(photo, k1)) >= 2 / 3 * len(candidates):
                members |= candidates
        for member in members:
            encoding[photo, member] = np.exp(-distances[photo, member])
        encoding[photo] /= encoding[photo].sum()
    encoding = np.array([encoding[order[photo, :k2]].mean(axis=0) for photo in range(count)])
    least = np.minimum(encoding, encoding[0]).sum(axis=1)
    most = np.maximum(encoding, encoding[0]).sum(axis=1)
    return ((1 - weight) * (1 - least / most) + weight * distances[0])[1:]


@pytest.mark.parametrize("seed", range(4))
def test_k_reciprocal_encoding_is_what_the_paper_says(seed):
    place = scenes(seed)
    expected = k_reciprocal_distance(place.with_query(), 8, 3, 0.3)
    assert KReciprocal(k1=8, k2=3).refine(place) == pytest.approx(-expected, abs=1e-5)


# Diffusion.


def test_diffusion_on_a_chain_of_three_photos():
    # Neighbours at a right angle to all but the next: similarities .5 along the chain, else 0.
    photos = np.linalg.cholesky([[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]])
    result = Diffusion(neighbours=2, query_neighbours=1, alpha=0.5, gamma=1).refine(
        neighbourhood(photos[0], photos)
    )
    # S = [[0, a, 0], [a, 0, a], [0, a, 0]] with a = 1/√2; (I − S/2) f = (1, 0, 0).
    a = 0.5 / np.sqrt(2)
    system = np.array([[1, -a, 0], [-a, 1, -a], [0, -a, 1]])
    assert system @ result == pytest.approx([1, 0, 0], abs=1e-6)
    assert result[0] > result[1] > result[2] > 0


def test_diffusion_reaches_along_a_curve_that_similarity_cannot_follow():
    angles = np.deg2rad(np.r_[np.arange(0, 100, 10), 330])
    place = neighbourhood([1, 0], np.column_stack([np.cos(angles), np.sin(angles)]))
    # Off the curve, and nearer to the query than its end.
    result = Diffusion(neighbours=2, query_neighbours=1).refine(place)
    assert place.similarities[-1] > place.similarities[-2]
    assert result[-1] < result[-2]


# All methods.

REFINEMENTS = {"augmentation": get_refinement(NeighboursSettings(), 400), **PUBLISHED}
METHODS = sorted(REFINEMENTS)


@pytest.mark.parametrize("method", METHODS)
def test_photos_may_come_in_any_order(method):
    place = scenes(3)
    order = np.random.default_rng(0).permutation(len(place))
    shuffled = Neighbourhood(place.query, place.descriptors[order], place.proof[order])
    refined = REFINEMENTS[method].refine(place)
    assert refined.dtype == np.float32 and refined.shape == (len(place),)
    assert REFINEMENTS[method].refine(shuffled) == pytest.approx(refined[order], rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_without_neighbours_the_order_is_that_of_similarity(method):
    # Photos at right angles to each other.
    weights = np.array([5, 4, 3, 2, 1], np.float32)
    place = neighbourhood(weights, np.eye(5))
    refined = REFINEMENTS[method].refine(place)
    assert list(np.argsort(-refined)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_short_shortlist_is_refined_too(method, count):
    assert np.isfinite(REFINEMENTS[method].refine(scenes(5, count=count))).all()


@pytest.mark.parametrize("method", METHODS)
def test_copies_of_one_photo_and_opposite_photos_give_finite_numbers(method):
    place = neighbourhood([1, 0], [[1, 0]] * 6 + [[-1, 0]] * 6)
    refined = REFINEMENTS[method].refine(place)
    assert np.isfinite(refined).all() and refined[:6].min() > refined[6:].max()


@pytest.mark.parametrize("method", METHODS)
def test_neighbours_bring_up_photos_of_the_thing_that_are_unlike_the_query(method):
    """Hidden photos are nearer to other photos of the thing than to the query."""
    random = np.random.default_rng(0)
    thing, others = np.eye(24)[0], random.normal(size=(30, 24))
    views = thing + 0.12 * random.normal(size=(20, 24))
    query = thing + 0.25 * random.normal(size=24)
    place = neighbourhood(query, np.concatenate([views, query + 0.35 * others]))
    before = np.isin(np.argsort(-place.similarities)[:20], np.arange(20)).mean()
    after = np.isin(np.argsort(-REFINEMENTS[method].refine(place))[:20], np.arange(20)).mean()
    assert before < 1 and after >= before


def test_of_few_photos_fewer_are_neighbours():
    def constants(photos):
        method = get_refinement(NeighboursSettings(), photos)
        return method.augment, method.expand, method.reciprocal

    assert constants(4000) == constants(400) == (20, 20, 10)
    assert constants(100) == (5, 5, 5)
    # Too few to say anything: the order stays that of similarity.
    assert constants(39) == constants(1) == (1, 0, 1)
    place = scenes(2, count=39)
    refined = get_refinement(NeighboursSettings(), 39).refine(place)
    assert refined == pytest.approx(place.similarities, abs=1e-6)
