"""IIIF manifests as a source of an index, from a web server of this machine."""

from __future__ import annotations

import io
import json

import pytest
from dots import dots
from PIL import Image

pytest.importorskip("fsspec")
from remote_places import WebPlace

from delg.errors import UsageError
from index.answers.answer_table import answer_row


def photo(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(dots(number).pixels()).save(file, "PNG")
    return file.getvalue()


def manifest(base: str, number: int, pages: int) -> dict:
    """A manifest of version 3, whose photos a server of level 2 sends."""
    canvases = []
    for page in range(pages):
        service = {
            "id": f"{base}/image/{number}%2F{page}", "type": "ImageService3", "profile": "level2",
            "width": 300, "height": 300,
        }  # fmt: skip
        body = {"id": f"{base}/broken.jpg", "type": "Image", "service": [service]}
        annotation = {"type": "Annotation", "motivation": "painting", "body": body}
        canvases.append(
            {
                "id": f"{base}/object/{number}/canvas/{page}",
                "type": "Canvas",
                "label": {"none": [f"p. {page}"]},
                "items": [{"type": "AnnotationPage", "items": [annotation]}],
            }
        )
    return {
        "@context": "http://iiif.io/api/presentation/3/context.json",
        "id": f"{base}/object/{number}/manifest",
        "type": "Manifest",
        "label": {"en": [f"Object {number}"]},
        "metadata": [{"label": {"en": ["Room"]}, "value": {"none": [f"{number % 2}"]}}],
        "homepage": [{"id": f"{base}/page/{number}", "type": "Text"}],
        "items": canvases,
    }


@pytest.fixture
def museum(tmp_path):
    """A collection of two objects with three photos, and one whose manifest is missing."""
    place = WebPlace(tmp_path)
    base, members = place.url, []
    for number, pages in ((1, 1), (2, 2)):
        document = manifest(base, number, pages)
        place.write(f"object/{number}/manifest", json.dumps(document).encode())
        members.append({"id": document["id"], "type": "Manifest", "label": {"en": ["x"]}})
        for page in range(pages):
            name = f"image/{number}/{page}/full/max/0/default.jpg"
            place.write(name, photo(10 * number + page))
    members.append({"id": f"{base}/object/3/manifest", "type": "Manifest"})
    collection = {"id": f"{base}/all.json", "type": "Collection", "items": members}
    place.write("all.json", json.dumps(collection).encode())
    yield place
    place.go_down()


def ids(museum: WebPlace, *names: str) -> list[str]:
    return [f"{museum.url.removeprefix('http://')}/object/{name}" for name in names]


def test_photos_of_a_collection_bring_label_metadata_and_links(museum, make_index, model):
    images = make_index()
    report = images.add(f"{museum.url}/all.json")
    assert report.added == 3
    assert [failure.path for failure in report.failed] == [f"{museum.url}/object/3/manifest"]
    all_ids = ids(museum, "1/canvas/0", "2/canvas/0", "2/canvas/1")
    assert sorted(images.ids()) == all_ids
    hit = images.query(photo(21), k=1)[0]
    assert (hit.id, hit.label, hit.verified) == (all_ids[2], "Object 2", True)
    assert hit.metadata["Room"] == "0" and hit.metadata["canvas"] == "p. 1"
    values = hit.as_json()
    assert values["source_url"] == f"{museum.url}/page/2"
    assert values["iiif"] == {
        "manifest": f"{museum.url}/object/2/manifest",
        "canvas": f"{museum.url}/object/2/canvas/1",
    }
    row = answer_row("q.png", images.query(photo(21), k=1))
    assert row["source_url"] == values["source_url"]
    assert row["iiif_canvas"] == values["iiif"]["canvas"]
    # The same again asks for no photo; what people wrote stays.
    images.edit([all_ids[0]], "By hand", {"Room": "7"})
    extracted = model.extracted
    report = images.add(f"{museum.url}/object/1/manifest")
    assert (report.unchanged, report.failed, model.extracted) == (1, [], extracted)
    row = images.image(all_ids[0])
    assert (row.label, row.metadata["Room"]) == ("By hand", "7")
    assert images.missing().gone == []


def test_a_local_manifest_a_photo_of_a_server_and_labels_of_ones_own(museum, make_index, tmp_path):
    (tmp_path / "m.json").write_text(json.dumps(manifest(museum.url, 1, 1)))
    [first] = ids(museum, "1/canvas/0")
    (tmp_path / "l.csv").write_text(f"id,label,Room\n{first},Mine,9\n")
    images = make_index()
    images.add(tmp_path / "m.json", str(tmp_path / "l.csv"))
    row = images.image(first)
    assert (row.label, row.metadata["Room"]) == ("Mine", "9")
    assert row.metadata["source_url"] == f"{museum.url}/page/1"
    url = f"{museum.url}/image/2%2F0/full/max/0/default.jpg"
    images.add(url)
    assert images.image(f"{museum.url.removeprefix('http://')}/image/2/0").path == url
    with pytest.raises(UsageError, match=r"absent\.json: no such"):
        images.add(f"{museum.url}/absent.json")
