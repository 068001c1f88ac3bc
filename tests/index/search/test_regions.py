"""Regions: which part of a query an answer explains, and what is searched for besides."""

import numpy as np
import pytest
from dots import dots

from delg.types import ImageFeatures, LocalFeatures
from index.results import Verification
from index.search.candidates import Candidate, ImageKey, Match
from index.search.regions import RegionSearch, explained_box, group_by_region, place_in_photo
from index.settings import RankingSettings, RegionsSettings

SIZE = (400, 300)
FRAME = (100, 80)


def candidate(
    row: int, x: float, y: float, zoom: float = 0.5, log_odds: float = 3.0, spread: float = 1.0
) -> Candidate:
    """A verified photo whose frame lies at (x, y) of the query, ``zoom`` being its size there."""
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0.5, 0.5]]) * FRAME * spread
    to_query = np.array([[zoom, 0, x], [0, zoom, y], [0, 0, 1]])
    points = corners * zoom + [x, y]
    matches = np.zeros((len(points), 2), np.int32)
    verification = Verification(
        len(points), log_odds, log_odds > 0, np.linalg.inv(to_query), matches, log_odds
    )
    match = Match(verification, points.astype(np.float32), corners.astype(np.float32), FRAME)
    return Candidate.scored(ImageKey(row, 0), 0.5, match, 0, RankingSettings())


def features(*patches: tuple[float, float, float]) -> ImageFeatures:
    """Features of a query that stand out around (x, y), as far as ``radius``."""
    points = np.random.default_rng(0).uniform(0, 1, (900, 2)) * SIZE
    scores = np.ones(len(points))
    for x, y, radius in patches:
        scores[(abs(points - [x, y]) < radius).all(axis=1)] = 4
    local = LocalFeatures(
        points.astype(np.float32),
        np.zeros((900, 4), np.float32),
        np.ones(900, np.float32),
        scores.astype(np.float32),
    )
    return ImageFeatures(np.ones(1, np.float32), local, *SIZE)


# --- What an answer explains ---


def test_the_frame_of_the_answer_as_the_transform_puts_it_into_the_query():
    assert explained_box(candidate(1, 20, 30, 2.0), SIZE) == pytest.approx((20, 30, 200, 160))


def test_no_further_than_the_points_allow_nor_out_of_the_photo():
    # Points in a quarter of the frame: half their extent is added, and no more.
    box = explained_box(candidate(1, 20, 30, 2.0, spread=0.25), SIZE)
    assert box == pytest.approx((20, 30, 75, 60))
    assert explained_box(candidate(1, -50, 200, 2.0), SIZE) == pytest.approx((0, 200, 150, 100))


def test_verified_hits_of_one_place_share_a_region_and_others_have_their_own():
    ranked = [
        candidate(1, 10, 10, 1.5),
        candidate(2, 250, 150, 1.2),
        candidate(3, 14, 12, 1.4),
        candidate(4, 300, 20, log_odds=-2.0),
    ]
    regions = group_by_region(ranked, SIZE)
    assert [region.ranks for region in regions] == [(1, 3), (2,)]
    assert regions[0].box == pytest.approx((10, 10, 150, 120))


def test_a_part_in_pixels_of_the_whole():
    part = candidate(1, 5, 6, 2.0)
    placed = place_in_photo(part, (100, 50))
    assert explained_box(placed, SIZE) == pytest.approx((105, 56, 200, 160))
    assert np.array_equal(placed.match.points, part.match.points)
    # Points of the query still go where the transform says.
    x, y, z = placed.match.verification.transform @ [*placed.match.query_points[2], 1]
    assert (x / z, y / z) == pytest.approx(tuple(part.match.points[2]))


# --- What is searched for ---


def search_with(answers: dict, ranked: list[Candidate], query: ImageFeatures, **values):
    """The candidates, and the boxes searched; ``answers``: (x, y) -> candidate of boxes with it."""

    def search(box):
        x, y, width, height = box
        return [
            answer
            for (u, v), answer in answers.items()
            if x <= u <= x + width and y <= v <= y + height
        ]

    spec = RegionsSettings(**{"searches": 2, "further": 1, **values})
    regions = RegionSearch(query, spec, search)
    return [c.image.row for c in regions.extend(ranked) if c.verified], regions.searched


def test_where_nothing_is_proven_the_most_conspicuous_regions_are_searched():
    query = features((80, 80, 40), (300, 200, 45))
    ranked = [candidate(9, 0, 0, log_odds=-3.0)]
    answers = {(300, 200): candidate(1, 260, 160, 0.9)}
    found, searched = search_with(answers, ranked, query)
    assert found == [1] and 1 <= len(searched) <= 3
    assert search_with(answers, ranked, query, searches=0) == ([], [])
    assert search_with({}, ranked, query)[0] == [] and len(search_with({}, ranked, query)[1]) == 2


def test_after_each_answer_the_rest_is_searched_until_nothing_is_proven():
    query = features((60, 60, 35), (320, 80, 35), (200, 230, 35))
    ranked = [candidate(1, 20, 30, 0.8)]
    answers = {(320, 80): candidate(2, 280, 50, 0.8), (200, 230): candidate(3, 160, 200, 0.8)}
    found, searched = search_with(answers, ranked, query, further=2)
    assert sorted(found) == [1, 2, 3]
    # What is explained is not searched again.
    for x, y, width, height in searched[:2]:
        assert not (x <= 60 <= x + width and y <= 60 <= y + height)
    assert search_with(answers, ranked, query, further=0) == ([1], [])


def test_a_likely_candidate_says_where_to_look_closer():
    query = features((80, 80, 40))
    likely = candidate(1, 240, 140, 1.2, log_odds=-1.0)
    answers = {(300, 190): candidate(1, 240, 140, 1.2)}
    found, searched = search_with(answers, [likely], query, searches=1)
    assert found == [1] and searched[0] == pytest.approx((228, 130.4, 144, 115.2))
    # It is looked at once, and costs none of the searches.
    assert len(search_with({}, [likely], query, searches=1)[1]) == 2


def test_a_photo_found_in_a_region_too_keeps_its_better_score():
    query = features((300, 200, 45))
    weak, sure = candidate(1, 260, 160, 0.9, log_odds=-1.0), candidate(1, 260, 160, 0.9)
    extended = RegionSearch(query, RegionsSettings(), lambda box: [sure]).extend([weak])
    assert [c.score for c in extended] == [sure.score]
    better = candidate(1, 260, 160, 0.9, log_odds=5.0)
    extended = RegionSearch(query, RegionsSettings(), lambda box: [sure]).extend([better])
    assert [c.score for c in extended] == [better.score]


def test_no_region_is_searched_once_time_is_up():
    query = features((100, 100, 40), (300, 200, 40))
    late, early = (
        RegionSearch(query, RegionsSettings(), lambda box: [], until=until) for until in (0, np.inf)
    )
    assert late.extend([]) == early.extend([]) == []
    assert not late.searched and early.searched


# --- In an index ---


def test_photos_of_two_things_have_two_answers(make_index, photos):
    images = make_index()
    images.add(photos)
    paper = np.full((200, 400, 3), 128, np.uint8)
    paper[20:140, 10:170], paper[60:180, 220:380] = dots(3).pixels(), dots(7).pixels()
    result = images.query(paper)
    boxes = {result.hits_of(r)[0].id: r.box for r in result.regions if r.ranks}
    assert set(boxes) == {"003.png", "007.png"}
    assert boxes["003.png"] == pytest.approx((10, 20, 160, 120), abs=25)
    assert boxes["007.png"] == pytest.approx((220, 60, 160, 120), abs=25)
    plain = result.as_json("q.png", "i")["regions"]
    assert [region["hits"] for region in plain if region["hits"]] == [[1], [2]]
    # The best of one thing leaves no room for the other.
    assert len([region for region in images.query(paper, k=1).regions if region.ranks]) == 1
    images.configure({"regions": {"enabled": False}})
    assert len(images.query(paper).regions) == 2


def test_boxes_of_a_detector_take_the_place_of_what_stands_out(make_index, photos):
    images = make_index(regions={"enabled": False})
    images.add(photos)
    rng = np.random.default_rng(5)
    noise = rng.integers(0, 256, (400, 500, 3), np.uint8)
    # The first thousand dots of a photo count, so that the whole shows nothing of the thing.
    noise[200:320, 100:260] = dots(3).pixels()
    assert not any(hit.verified for hit in images.query(noise))
    result = images.query(noise, regions=[(300, 0, 90, 90), (100, 200, 160, 120)])
    assert (result[0].id, result[0].verified) == ("003.png", True)
    answered, other = result.regions
    assert answered.box == pytest.approx((100, 200, 160, 120), abs=25)
    assert (answered.ranks, other.box, other.ranks) == ((1,), (300, 0, 90, 90), ())
