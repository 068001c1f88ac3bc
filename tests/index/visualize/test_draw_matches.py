from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delg.errors import DelgError, UsageError
from index.visualize.draw_matches import (
    Frame,
    draw_matches,
    match_colours,
    save_drawing,
    side_by_side,
)

NONE = np.zeros((0, 2), np.float32)


def grey(width: int, height: int, value: int = 128) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def points(*pairs: tuple[float, float]) -> np.ndarray:
    return np.array(pairs, np.float32)


def test_frame_places_pixel_centres_and_corners_exactly():
    frame = Frame(x=100, y=10, width=50, height=20, source_width=100, source_height=40)
    assert frame.to_canvas(points((-0.5, -0.5))).tolist() == [[100, 10]]
    assert frame.to_canvas(points((99.5, 39.5))).tolist() == [[150, 30]]
    assert frame.to_canvas(points((0.5, 0.5))).tolist() == [[100.5, 10.5]]


def test_frame_cuts_a_box_to_the_photo():
    frame = Frame(x=0, y=0, width=50, height=20, source_width=100, source_height=40)
    assert frame.box_to_canvas((20, 10, 40, 20)) == (10, 5, 20, 10)
    assert frame.box_to_canvas((-10, -10, 500, 500)) == (0, 0, 50, 20)


@pytest.mark.parametrize(
    ("query", "hit"), [((400, 300), (300, 400)), ((40, 30), (4000, 3000)), ((500, 500), (500, 300))]
)
def test_photos_get_one_height_and_no_side_longer_than_asked(query, hit):
    layout = side_by_side(query, hit, 600)
    assert layout.query.height == layout.hit.height == layout.height
    assert max(layout.query.width, layout.hit.width, layout.height) == 600
    for frame, (width, height) in ((layout.query, query), (layout.hit, hit)):
        assert frame.width / frame.height == pytest.approx(width / height, rel=0.02)


def test_a_panorama_does_not_make_its_partner_tiny():
    layout = side_by_side((6000, 600), (600, 900), 600)
    assert (layout.query.width, layout.hit.height) == (600, 600)
    assert layout.query.y == (layout.height - layout.query.height) // 2


def test_neighbours_differ_in_colour_and_order_of_points_does_not_matter():
    pairs = points(*((10 * i % 70, i) for i in range(40)))
    colours = match_colours(pairs)
    assert (np.abs(np.diff(colours.astype(int), axis=0)).sum(axis=1) > 100).all()
    turned = match_colours(pairs[::-1])
    assert (turned[::-1] == colours).all()
    assert match_colours(NONE).shape == (0, 3)


def test_dots_have_the_colour_of_the_match_where_the_points_are():
    query, hit = points((20, 30), (150, 80)), points((60, 90), (10, 10))
    drawn = draw_matches(grey(200, 100), grey(100, 100), query, hit, longest_side=400)
    layout = side_by_side((200, 100), (100, 100), 400)
    assert drawn.dtype == np.uint8 and drawn.shape == (layout.height, layout.width, 3)
    for frame, own in ((layout.query, query), (layout.hit, hit)):
        for (x, y), colour in zip(frame.to_canvas(own).tolist(), match_colours(query), strict=True):
            assert np.abs(drawn[int(y), int(x)].astype(int) - colour).max() <= 2


def test_a_line_joins_the_points_and_the_rest_stays_untouched():
    drawn = draw_matches(
        grey(100, 100), grey(100, 100), points((50, 50)), points((50, 50)), longest_side=100
    )
    untouched = draw_matches(grey(100, 100), grey(100, 100), NONE, NONE, longest_side=100)
    changed = np.argwhere((drawn != untouched).any(axis=2))
    assert changed[:, 0].min() >= 44 and changed[:, 0].max() <= 56
    assert set(range(50, 162)) <= set(changed[:, 1].tolist())


def test_the_box_is_drawn_on_the_query_only():
    plain = draw_matches(grey(100, 100), grey(100, 100), NONE, NONE, 200)
    boxed = draw_matches(grey(100, 100), grey(100, 100), NONE, NONE, 200, box=(20, 20, 40, 30))
    changed = np.argwhere((plain != boxed).any(axis=2))
    assert changed[:, 1].max() < 130
    assert boxed[40, 80].tolist() == [255, 255, 255]
    assert (boxed[70, 80] == plain[70, 80]).all()


def test_points_far_outside_and_photos_of_one_pixel_do_no_harm():
    far = points((1e9, -1e9), (5, 5))
    drawn = draw_matches(grey(1, 1), grey(3000, 2), far, far, longest_side=50)
    assert drawn.dtype == np.uint8


def test_points_must_pair():
    with pytest.raises(ValueError, match="do not pair"):
        draw_matches(grey(9, 9), grey(9, 9), points((1, 1)), NONE)


@pytest.mark.parametrize(
    ("name", "kind"), [("a.png", "PNG"), ("b.JPG", "JPEG"), ("c.jpeg", "JPEG")]
)
def test_the_suffix_decides_the_format(tmp_path: Path, name, kind):
    save_drawing(tmp_path / name, grey(60, 40))
    with Image.open(tmp_path / name) as image:
        assert image.format == kind
        assert image.size == (60, 40)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_png_holds_the_drawing_itself(tmp_path: Path):
    drawn = draw_matches(grey(60, 40), grey(50, 40), points((1, 1)), points((2, 2)), 90)
    save_drawing(str(tmp_path / "a.png"), drawn)
    assert (np.asarray(Image.open(tmp_path / "a.png")) == drawn).all()


def test_other_suffixes_are_refused_by_name(tmp_path: Path):
    with pytest.raises(UsageError, match=r"a\.bmp.*\.png, \.jpg, \.jpeg"):
        save_drawing(tmp_path / "a.bmp", grey(9, 9))


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path):
    with pytest.raises(DelgError, match=r"missing.a\.png"):
        save_drawing(tmp_path / "missing" / "a.png", grey(9, 9))
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DelgError, match=r"folder\.png"):
        save_drawing(tmp_path / "folder.png", grey(9, 9))
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"old")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(DelgError, match="No space left"):
        save_drawing(tmp_path / "a.png", grey(9, 9))
    assert (tmp_path / "a.png").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path: Path):
    path = tmp_path / ("n" * 251 + ".png")
    save_drawing(path, grey(9, 9))
    assert path.exists()
