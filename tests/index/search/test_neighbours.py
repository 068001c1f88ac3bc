import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delg.types import ImageFeatures, LocalFeatures
from index import ImageIndex
from index.feature_spec import FeatureSpec
from index.results import Verification
from index.search.candidates import Candidate, ImageKey, Match, sort_by_score
from index.search.neighbours import refine_order
from index.search.scatter import Scatter
from index.search.shard import LocalShard
from index.settings import NeighboursSettings, RankingSettings
from index.storage.catalog_tables import ImageRow
from index.storage.store import Store

DIM, COUNT = 16, 240
DEFAULT = NeighboursSettings()
METHODS = [
    "augmentation", "average-expansion", "alpha-expansion", "superglobal", "k-reciprocal",
    "diffusion",
]  # fmt: skip


def scatter(stores) -> Scatter:
    return Scatter([LocalShard(store) for store in stores])


def make_store(folder, vectors, first=0) -> Store:
    ImageIndex.create_for_features(folder, FeatureSpec("made-up", DIM, 8, False)).close()
    store = Store(folder)
    ids = [f"{first + n}.jpg" for n in range(len(vectors))]
    rows = [ImageRow(name, f"/{name}", 1, 1, "", width=64, height=48) for name in ids]
    features = [ImageFeatures(v, LocalFeatures.empty(8), 64, 48) for v in vectors]
    with store.lock():
        store.commit(rows, features)
        store.save_ann_index()
    return store


@pytest.fixture(scope="module")
def vectors():
    """Photos of six things, forty of each."""
    random = np.random.default_rng(0)
    values = random.normal(size=(6, DIM))[np.arange(COUNT) % 6]
    values += 0.8 * random.normal(size=values.shape)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return values.astype(np.float16).astype(np.float32)


@pytest.fixture(scope="module")
def query(vectors):
    random = np.random.default_rng(1)
    query = vectors[::6].mean(axis=0) + 0.3 * random.normal(size=DIM)
    return (query / np.linalg.norm(query)).astype(np.float32)


@pytest.fixture(scope="module")
def one(tmp_path_factory, vectors):
    return make_store(tmp_path_factory.mktemp("one") / "i", vectors)


@pytest.fixture(scope="module")
def shards(tmp_path_factory, vectors):
    """The same photos in three indexes."""
    folder = tmp_path_factory.mktemp("shards")
    cuts = ((0, 100), (100, 101), (101, COUNT))
    return [make_store(folder / str(a), vectors[a:b], a) for a, b in cuts]


def candidates_of(stores, query, proven=(), probability=0.99):
    """All photos as candidates; those named ``proven`` are verified."""
    images = [
        ImageKey(int(row), number)
        for number, store in enumerate(stores)
        for row in store.searchable()
    ]
    similarities = scatter(stores).read_descriptors(images) @ query
    return [
        candidate(image, similarity, probability if name in proven else None)
        for image, similarity, name in zip(images, similarities, names(stores, images), strict=True)
    ]


def candidate(image, similarity, probability=None, verified=True):
    """One that geometry gives that probability, or has nothing to say of."""
    if probability is None:
        match = Match.none(-8 + float(similarity))
    else:
        odds, nothing = probability / (1 - probability), np.zeros((0, 2), np.int32)
        value = math.log(odds)
        verification = Verification(20, value, verified, np.eye(3), nothing, value)
        match = replace(Match.none(), verification=verification)
    return Candidate.scored(image, float(similarity), match, 0, RankingSettings())


def names(stores, images):
    return [stores[image.store].catalog.by_row(image.row).id for image in images]


def order_of(stores, candidates):
    return names(stores, [candidate.image for candidate in candidates])


def thing(name):
    return int(name[:-4]) % 6


def test_photos_of_the_thing_come_up(one, query):
    candidates = candidates_of([one], query)
    before = order_of([one], sort_by_score(candidates))[:40]
    after = order_of([one], refine_order(scatter([one]), query, candidates, DEFAULT))[:40]
    counts = [sum(thing(name) == 0 for name in names) for names in (before, after)]
    assert counts[0] < 36 < 38 <= counts[1]


@pytest.mark.parametrize("method", METHODS)
def test_scores_change_hands_and_nothing_else(one, query, method):
    candidates = candidates_of([one], query)
    chosen = NeighboursSettings(method=method, candidates=40)
    refined = refine_order(scatter([one]), query, candidates, chosen)
    before = sort_by_score(candidates)
    assert [c.score for c in refined] == [c.score for c in before]
    assert order_of([one], refined) != order_of([one], before)
    by_image = {c.image: c for c in candidates}
    assert all(c.similarity == by_image[c.image].similarity for c in refined)
    # The first 40 stay the first 40; beyond them nothing is looked at.
    assert {c.image for c in refined[:40]} == {c.image for c in before[:40]}
    assert order_of([one], refined[40:]) == order_of([one], before[40:])


@pytest.mark.parametrize("method", METHODS)
def test_several_indexes_give_what_one_gives(one, shards, query, method):
    chosen = NeighboursSettings(method=method)
    proven = ("1.jpg", "30.jpg")
    single = refine_order(scatter([one]), query, candidates_of([one], query, proven), chosen)
    spread = refine_order(scatter(shards), query, candidates_of(shards, query, proven), chosen)
    assert order_of(shards, spread) == order_of([one], single)
    assert [c.score for c in spread] == pytest.approx([c.score for c in single], abs=1e-5)


@given(st.permutations(range(COUNT)), st.sets(st.integers(0, COUNT - 1), max_size=4))
@settings(max_examples=15, deadline=None)
def test_the_order_of_the_candidates_does_not_count_and_proof_leads(one, query, order, proven):
    candidates = candidates_of([one], query, {f"{n}.jpg" for n in proven})
    refined = refine_order(scatter([one]), query, candidates, DEFAULT)
    shuffled = [candidates[place] for place in order]
    assert [c.image for c in refine_order(scatter([one]), query, shuffled, DEFAULT)] == [
        c.image for c in refined
    ]
    assert {c.image for c in refined} == {c.image for c in candidates}
    assert sum(c.verified for c in refined[: len(proven)]) == len(proven)
    # A hit's score orders it.
    assert [c.image for c in sort_by_score(refined)] == [c.image for c in refined]


def mean_rank(stores, candidates, number, left_out=()):
    order = [name for name in order_of(stores, candidates) if name not in left_out]
    return np.mean([place for place, name in enumerate(order) if thing(name) == number])


def test_proven_photos_bring_up_what_is_near_to_them(one, query):
    """Proof that the query shows the second thing, to which it is not similar."""
    proven = ("1.jpg", "7.jpg", "13.jpg")
    plain = refine_order(scatter([one]), query, candidates_of([one], query), DEFAULT)
    seeded = refine_order(scatter([one]), query, candidates_of([one], query, proven), DEFAULT)
    assert order_of([one], seeded)[:3] != order_of([one], plain)[:3]
    assert mean_rank([one], seeded, 1, proven) < mean_rank([one], plain, 1, proven) - 1


def test_photos_that_geometry_speaks_for_lead_be_it_short_of_proof(one):
    """A cover seen from the side: likely, but not proven."""
    stranger = np.random.default_rng(5).normal(size=DIM)
    stranger = (stranger / np.linalg.norm(stranger)).astype(np.float32)
    candidates = sort_by_score(candidates_of([one], stranger))
    ranks = []
    for probability in (0.01, 0.05, 0.2):
        place = candidates[25]
        likely = candidate(place.image, place.similarity, probability, verified=False)
        others = [c for c in candidates if c.image != place.image]
        refined = refine_order(scatter([one]), stranger, [*others, likely], DEFAULT)
        ranks.append([c.image for c in refined].index(place.image))
    assert ranks[0] > 15 and ranks[1] > 5 and ranks[2] == 0


def test_photos_that_geometry_says_little_for_join_the_query_without_leading(one, query):
    weak = tuple(f"{n}.jpg" for n in range(1, COUNT, 6))
    means = []
    for probability in (0.01, 0.09):
        candidates = candidates_of([one], query, weak, probability)
        refined = refine_order(scatter([one]), query, candidates, DEFAULT)
        assert thing(order_of([one], refined)[0]) == 0
        means.append(mean_rank([one], refined, 1))
    assert means[1] < means[0] - 1


def test_where_there_is_nothing_to_refine_the_order_stays(one, query):
    candidates = candidates_of([one], query)
    before = order_of([one], sort_by_score(candidates))
    none = NeighboursSettings(method="none")
    assert order_of([one], refine_order(scatter([one]), query, candidates, none)) == before
    assert refine_order(scatter([one]), query, candidates[:1], DEFAULT) == candidates[:1]
    assert refine_order(scatter([one]), query, [], DEFAULT) == []
    # A model without a global descriptor.
    nothing = np.zeros(0, np.float32)
    assert order_of([one], refine_order(scatter([one]), nothing, candidates, DEFAULT)) == before
