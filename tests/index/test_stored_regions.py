"""Parts of stored photos: searched for as photos of their own, kept as everything else is."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from dots import DotModel, Dots, contents, dots, gallery, model_folder
from starlette.testclient import TestClient

from index import ImageIndex, IndexSettings
from index.cli.query_output import Output, print_hits
from index.serve.app import make_app
from index.serve.service import Service
from index.serve.settings import ServeSettings
from index.serve.shared_index import SharedIndex
from index.sharding.reshard import reshard
from index.storage.codebook import write_codebook
from index.storage.product_quantizer import MIN_TRAINING_VECTORS, ProductQuantizer
from index.storage.segments import Segment, SegmentError
from index.visualize.draw_matches import draw_matches
from index.visualize.html_report import render_html_report

SIZE = (320, 240)
THING = (40, 30)
KINDS = (
    ("auto", "compact"), ("flat", "float32"), ("sq8", "float32"), ("ivf", "compact"),
    ("rabitq", "compact"),
)  # fmt: skip


def with_thing(number: int, x: int, y: int) -> Dots:
    """A photo of scattered dots with 30 dots close together in one place: the thing."""
    thing, others = thing_of(number), dots(9000 + number, 60, SIZE)
    outside = ((others.points < (x, y)) | (others.points >= np.add((x, y), THING))).any(axis=1)
    return Dots(
        np.concatenate([np.add(thing.points, (x, y)), others.points[outside]]),
        np.concatenate([thing.colours, others.colours[outside]]),
        SIZE,
    )


def thing_of(number: int) -> Dots:
    return dots(number, 30, THING)


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    for number in range(6):
        with_thing(number, 20 + 40 * number, 150 - 20 * number).save(folder / f"{number}.png")
    gallery(folder, 6, first=100)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model's folder with a codebook, so that segments are compact."""
    folder = model_folder(tmp_path_factory.mktemp("coded") / "model")
    vectors = np.random.default_rng(0).normal(size=(MIN_TRAINING_VECTORS, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    write_codebook(folder / "codebook.h5", ProductQuantizer.train(vectors))
    return folder


def new_index(path: Path, folder: Path, kind: str = "auto", **store) -> ImageIndex:
    values = {"store": {"regions": 3, **store}, "shortlist": {"kind": kind}}
    images = ImageIndex.create(path, str(folder), settings=IndexSettings.model_validate(values))
    images.use(DotModel(folder))
    return images


def similarities(images: ImageIndex, query: Dots) -> dict[str, float]:
    """Comparing photo by photo and part by part."""
    descriptor = images.extractor.extract(query.pixels()).global_descriptor
    best = {}
    for image_id in images.ids():
        features = images.features(image_id)
        parts = [features, *(region.features for region in features.regions)]
        best[image_id] = max(float(part.global_descriptor @ descriptor) for part in parts)
    return best


def answers(images: ImageIndex, query: Dots, rerank: int = 5) -> list[tuple]:
    hits = images.query(query.pixels(), k=20, rerank=rerank, orientations="1")
    return [(hit.id, round(hit.score, 5), round(hit.similarity, 5), hit.region) for hit in hits]


@pytest.mark.parametrize(("kind", "codec"), KINDS)
def test_a_photo_is_as_similar_as_its_best_part(tmp_path, folder, photos, kind, codec):
    images = new_index(tmp_path / "my.index", folder, kind, local_codec=codec)
    images.add(photos)
    for number in (0, 5):
        query = thing_of(number)
        found = images.query(query.pixels(), k=20, rerank=0, orientations="1")
        expected = similarities(images, query)
        assert len(found) == 12 and found[0].id == f"{number}.png"
        given = {hit.id: hit.similarity for hit in found}
        assert given == pytest.approx(expected, abs=2e-3)
        assert [hit.id for hit in found][:1] == [max(expected, key=expected.get)]


def test_the_part_that_matches_is_told_and_points_lie_in_the_photo(tmp_path, folder, photos):
    images = new_index(tmp_path / "my.index", folder)
    images.add(photos)
    hit = images.query(thing_of(2).pixels(), k=1, orientations="1")[0]
    assert hit.id == "2.png" and hit.verified
    x, y, width, height = hit.region
    assert 0 <= x <= 100 <= x + width - THING[0] + 8 and 0 <= y <= 110 and y + height <= SIZE[1]
    mapped = np.c_[hit.query_points, np.ones(len(hit.query_points))] @ hit.transform.T
    assert mapped[:, :2] == pytest.approx(hit.points, abs=1)
    assert hit.points == pytest.approx(np.add(hit.query_points, (100, 110)), abs=1)
    assert hit.as_json()["region"] == [x, y, width, height]
    # All of a photo matches itself, rather than a part.
    assert images.query(with_thing(2, 100, 110).pixels(), k=1, orientations="1")[0].region is None


def test_the_part_is_shown_to_people(tmp_path, folder, photos, capsys):
    images = new_index(tmp_path / "my.index", folder)
    images.add(photos)
    query = thing_of(2).pixels()
    result = images.query(query, k=2, orientations="1")
    x, y, width, height = result[0].region
    part = f"{x:.0f},{y:.0f},{width:.0f},{height:.0f}"
    for output in (Output.table, Output.answer):
        print_hits("thing", images.path, result, output)
        assert part in capsys.readouterr().out
    # Over the thumbnail, and in the picture of the matches.
    html = render_html_report([("thing", query, result)])
    assert html.count('<svg class="part" viewBox="0 0 320 240"') == 1
    assert html.count('class="frame-light"') == 2
    app = make_app(Service(SharedIndex(images.path, extractor=images.extractor), ServeSettings()))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        files = {"image": thing_of(2).save(tmp_path / "thing.png").read_bytes()}
        page = client.post("/search", files=files).text
    assert page.count('<svg class="part" viewBox="0 0 320 240"') == 1
    assert f"region&#34;: [{x}" in page
    canvas = np.zeros((240, 320, 3), np.uint8)
    drawing = [draw_matches(canvas, canvas, np.zeros((0, 2)), np.zeros((0, 2)), region=box)
               for box in (None, result[0].region)]  # fmt: skip
    differing = np.argwhere((drawing[0] != drawing[1]).any(axis=2))
    assert len(differing) and (differing[:, 1] > drawing[0].shape[1] // 2).all()


def test_adding_removing_and_compacting(tmp_path, folder, photos):
    images = new_index(tmp_path / "my.index", folder, segment_images=4)
    images.add(photos)
    query, file = thing_of(1), images.path / "regions.faiss"
    before, outdated = answers(images, query), file.read_bytes()
    assert before[0][0] == "1.png" and before[0][3] is not None
    images.remove(["2.png"])
    left = [answer for answer in answers(images, query) if answer[0] != "2.png"]
    assert {answer[0] for answer in left} == {answer[0] for answer in before} - {"2.png"}
    images.compact()
    assert answers(images, query) == left and not images.check().problems
    with_thing(1, 5, 5).save(photos / "again.png")
    images.add(photos)
    now = answers(images, query)
    assert {now[0][0], now[1][0]} == {"1.png", "again.png"}
    # Whatever is in the file that is derived from the segments.
    current = file.read_bytes()
    for content in (outdated, current[:-20], b""):
        file.write_bytes(content)
        reader = ImageIndex.open(images.path)
        reader.use(images.extractor)
        assert answers(reader, query) == now
    selected = images.query(query.pixels(), k=3, rerank=0, where=["id=again.png"])
    assert len(selected) <= 1


def test_shards_give_the_same_answers(tmp_path, folder, photos):
    images = new_index(tmp_path / "my.index", folder)
    images.add(photos)
    reshard([images.path], tmp_path / "shards.index", 3)
    shards = ImageIndex.open(tmp_path / "shards.index")
    shards.use(images.extractor)
    for number in (0, 3):
        assert answers(shards, thing_of(number)) == answers(images, thing_of(number))
    reshard([tmp_path / "shards.index"], tmp_path / "merged.index", None)
    assert contents(tmp_path / "merged.index") == contents(images.path)


def test_parts_are_exported_and_imported(tmp_path, folder, photos):
    images = new_index(tmp_path / "my.index", folder, local_codec="float32")
    images.add(photos)
    images.export(tmp_path / "features.h5", "hdf5")
    again = new_index(tmp_path / "again.index", folder, local_codec="float32")
    again.import_from([tmp_path / "features.h5"], photos=[photos])
    assert answers(again, thing_of(3)) == answers(images, thing_of(3))
    first, second = images.features("3.png").regions, again.features("3.png").regions
    assert [part.box for part in first] == [part.box for part in second] and first
    with h5py.File(tmp_path / "features.h5", "a") as file:
        file["3.png/region_offsets"][-1] = 10_000
    report = again.import_from([tmp_path / "features.h5"], photos=[photos])
    assert [failure.path for failure in report.failed] == ["3.png"]
    # An index that keeps no parts takes the photos without.
    plain = new_index(tmp_path / "plain.index", folder, regions=0)
    plain.import_from([tmp_path / "features.h5"], photos=[photos])
    assert not plain.features("2.png").regions and not (plain.path / "regions.faiss").exists()


def test_a_segment_with_broken_parts_is_refused(tmp_path, folder, photos):
    images = new_index(tmp_path / "my.index", folder)
    images.add(photos)
    [path] = (images.path / "segments").glob("*.h5")
    assert len(Segment(path)) == 12 and len(Segment(path).region_photos)
    assert Segment(path).quantizer is not None
    with h5py.File(path, "a") as file:
        file["region_photos"][-1] = 12
    with pytest.raises(SegmentError, match="do not fit"):
        Segment(path)
