"""IIIF: manifests as https://iiif.io/api/presentation/3.0 and 2.1 have them, and addresses of
photos as https://iiif.io/api/image/3.0 and 2.1 write them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delg.errors import UsageError
from delg.images.iiif_image import ImageService, image_of_url
from delg.images.iiif_manifest import canvas_images, kind_of_document, members
from delg.images.scan import scan

MARKUP = '<span>From: <a href="https://example.org/db/1.html">Some Collection</a></span>'
# The book of the specification 3.0, section "Example Manifest Response", with two of its pages.
BOOK_3 = {
    "@context": "http://iiif.io/api/presentation/3/context.json",
    "id": "https://example.org/iiif/book1/manifest",
    "type": "Manifest",
    "label": {"en": ["Book 1"]},
    "metadata": [
        {
            "label": {"en": ["Author"]},
            "value": {"none": ["Anne Author"]},
        },
        {
            "label": {"en": ["Published"]},
            "value": {"en": ["Paris, circa 1400"], "fr": ["Paris, environ 1400"]},
        },
        {"label": {"en": ["Notes"]}, "value": {"en": ["Text of note 1", "Text of note 2"]}},
        {"label": {"en": ["Source"]}, "value": {"none": [MARKUP]}},
    ],
    "summary": {"en": ["Book 1, written be Anne Author, published in Paris around 1400."]},
    "rights": "http://creativecommons.org/licenses/by/4.0/",
    "requiredStatement": {
        "label": {"en": ["Attribution"]},
        "value": {"en": ["Provided courtesy of Example Institution"]},
    },
    "homepage": [
        {"id": "https://example.org/info/book1/", "type": "Text", "format": "text/html"}
    ],
    "items": [
        {
            "id": "https://example.org/iiif/book1/canvas/p1",
            "type": "Canvas",
            "label": {"none": ["p. 1"]},
            "height": 1000,
            "width": 750,
            "items": [
                {
                    "id": "https://example.org/iiif/book1/page/p1/1",
                    "type": "AnnotationPage",
                    "items": [
                        {
                            "id": "https://example.org/iiif/book1/annotation/p0001-image",
                            "type": "Annotation",
                            "motivation": "painting",
                            "body": {
                                "id": "https://example.org/iiif/book1/page1/full/max/0/default.jpg",
                                "type": "Image",
                                "format": "image/jpeg",
                                "service": [
                                    {
                                        "id": "https://example.org/iiif/book1/page1",
                                        "type": "ImageService3",
                                        "profile": "level2",
                                    }
                                ],
                                "height": 2000,
                                "width": 1500,
                            },
                            "target": "https://example.org/iiif/book1/canvas/p1",
                        }
                    ],
                }
            ],
        },
        {"id": "https://example.org/iiif/book1/canvas/p2", "type": "Canvas", "items": []},
    ],
}  # fmt: skip
# That of 2.1, section "Complete Example Response", with two of its pages.
BOOK_2 = {
    "@context": "http://iiif.io/api/presentation/2/context.json",
    "@type": "sc:Manifest",
    "@id": "http://example.org/iiif/book1/manifest",
    "label": "Book 1",
    "metadata": [
        {"label": "Author", "value": "Anne Author"},
        {
            "label": "Published",
            "value": [
                {"@value": "Paris, circa 1400", "@language": "en"},
                {"@value": "Paris, environ 14eme siecle", "@language": "fr"},
            ],
        },
    ],
    "description": "A longer description of this example book.",
    "license": "http://creativecommons.org/licenses/by/3.0/",
    "attribution": "Provided by Example Organization",
    "related": {"@id": "http://example.org/videos/video-book1.html", "format": "text/html"},
    "sequences": [
        {
            "@id": "http://example.org/iiif/book1/sequence/normal",
            "@type": "sc:Sequence",
            "label": "Current Page Order",
            "canvases": [
                {
                    "@id": "http://example.org/iiif/book1/canvas/p1",
                    "@type": "sc:Canvas",
                    "label": "p. 1",
                    "height": 1000,
                    "width": 750,
                    "images": [
                        {
                            "@type": "oa:Annotation",
                            "motivation": "sc:painting",
                            "resource": {
                                "@id": "http://example.org/iiif/book1/res/page1.jpg",
                                "@type": "dctypes:Image",
                                "format": "image/jpeg",
                                "service": {
                                    "@context": "http://iiif.io/api/image/2/context.json",
                                    "@id": "http://example.org/images/book1-page1",
                                    "profile": "http://iiif.io/api/image/2/level1.json",
                                },
                                "height": 2000,
                                "width": 1500,
                            },
                            "on": "http://example.org/iiif/book1/canvas/p1",
                        }
                    ],
                }
            ],
        }
    ],
}


def images_of(manifest):
    return list(canvas_images(manifest, "https://example.org/found"))


def test_a_manifest_of_version_3_tells_label_metadata_and_addresses():
    image, empty = images_of(BOOK_3)
    assert (image.id, image.label) == ("example.org/iiif/book1/canvas/p1", "Book 1")
    assert image.metadata == {
        "Author": "Anne Author",
        "Published": "Paris, circa 1400",
        "Notes": "Text of note 1; Text of note 2",
        "Source": "From: Some Collection",
        "Attribution": "Provided courtesy of Example Institution",
        "summary": "Book 1, written be Anne Author, published in Paris around 1400.",
        "rights": "http://creativecommons.org/licenses/by/4.0/",
        "canvas": "p. 1",
        "iiif_manifest": "https://example.org/iiif/book1/manifest",
        "iiif_canvas": "https://example.org/iiif/book1/canvas/p1",
        "source_url": "https://example.org/info/book1/",
    }
    assert empty == "https://example.org/iiif/book1/canvas/p2"


def test_a_manifest_of_version_2_tells_the_same():
    [image] = images_of(BOOK_2)
    assert (image.id, image.label) == ("example.org/iiif/book1/canvas/p1", "Book 1")
    assert image.metadata["Published"] == "Paris, circa 1400"
    assert image.metadata["attribution"] == "Provided by Example Organization"
    assert image.metadata["license"] == "http://creativecommons.org/licenses/by/3.0/"
    assert image.metadata["source_url"] == "http://example.org/videos/video-book1.html"
    assert image.metadata["canvas"] == "p. 1"


def painted(body):
    canvas = {
        "id": "https://x.org/c",
        "items": [{"items": [{"motivation": "painting", "body": body}]}],
    }
    return images_of({"type": "Manifest", "items": [canvas]})  # fmt: skip


def test_choices_parts_and_several_photos_of_a_canvas():
    one, two = ({"id": f"https://x.org/{n}.jpg", "type": "Image"} for n in (1, 2))
    [choice] = painted({"type": "Choice", "items": [one, two]})
    assert choice.resource is one
    selector = {"type": "ImageApiSelector", "region": "50,50,1250,1850", "rotation": "!90"}
    [part] = painted({"type": "SpecificResource", "source": one, "selector": selector})
    assert (part.resource, part.region, part.rotation) == (one, "50,50,1250,1850", "!90")
    odd = {"type": "ImageApiSelector", "region": "../", "rotation": "22.5"}
    [whole] = painted({"type": "SpecificResource", "source": one, "selector": odd})
    assert (whole.region, whole.rotation) == ("", "0")
    first, second = painted([one, two])
    assert (first.id, second.id) == ("x.org/c", "x.org/c~2")
    assert painted({"type": "Sound", "id": "https://x.org/1.mp3"}) == ["https://x.org/c"]


SERVICES = [
    # What a manifest or info.json says -> what is asked for, after the service's URL.
    (
        {"type": "ImageService3", "profile": "level2", "width": 6000, "height": 4000},
        "full/1600,1066/0/default.jpg",
    ),
    (
        {"type": "ImageService3", "profile": "level1", "width": 800, "height": 600},
        "full/max/0/default.jpg",
    ),
    (
        {"type": "ImageService3", "profile": "level1", "width": 6000, "height": 4000,
         "maxWidth": 600},
        "full/600,400/0/default.jpg",
    ),
    (
        {"@context": "http://iiif.io/api/image/2/context.json", "width": 4000, "height": 6000,
         "profile": ["http://iiif.io/api/image/2/level2.json", {"maxArea": 600_000}]},
        "full/632,/0/default.jpg",
    ),
    (
        {"@context": "http://iiif.io/api/image/2/context.json", "width": 800, "height": 600,
         "profile": "http://iiif.io/api/image/2/level1.json"},
        "full/full/0/default.jpg",
    ),
    (
        {"profile": "http://library.stanford.edu/iiif/image-api/1.1/compliance.html#level1",
         "width": 3200, "height": 1600},
        "full/1600,/0/native.jpg",
    ),
    # Level 0 serves but the sizes that it names.
    (
        {"type": "ImageService3", "profile": "level0", "width": 6000, "height": 4000,
         "sizes": [{"width": 750 * n, "height": 500 * n} for n in (1, 4, 8)]},
        "full/3000,2000/0/default.jpg",
    ),
    (
        {"type": "ImageService2", "profile": "http://iiif.io/api/image/2/level0.json",
         "sizes": [{"width": 750, "height": 500}]},
        "full/750,/0/default.jpg",
    ),
]  # fmt: skip


def test_a_part_is_asked_for_as_it_is_turned_where_servers_turn():
    level_2, level_1 = (
        ImageService.parse(
            {"id": "https://x.org/i", "profile": f"level{n}", "width": 9, "height": 6}
        )
        for n in (2, 1)
    )
    assert (
        level_2.photo_url("1,2,3,4", "180") == "https://x.org/i/1,2,3,4/!1600,1600/180/default.jpg"
    )
    assert level_1.photo_url("", "90") == "https://x.org/i/full/full/0/default.jpg"


@pytest.mark.parametrize(("values", "expected"), SERVICES)
def test_a_photo_is_asked_for_in_a_bounded_size(values, expected):
    service = ImageService.parse({"id": "https://x.org/iiif/a%2Fb/", **values})
    assert service.photo_url() == f"https://x.org/iiif/a%2Fb/{expected}"
    assert not service.needs_info


def test_what_a_service_does_not_tell_is_asked_of_its_info():
    for values in ({"profile": "level2", "type": "ImageService3"}, {"profile": "level0"}):
        service = ImageService.parse({"id": "https://x.org/i", **values})
        assert service.needs_info and service.photo_url() == ""


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://x.org/iiif/3/a%2Fb/full/max/0/default.jpg", "x.org/iiif/3/a/b"),
        ("https://x.org/i/0,0,10,20/!200,200/90/gray.png", "x.org/i"),
        ("https://x.org/i/pct:0,0,10,20/pct:50/!90/native", "x.org/i"),
        ("https://x.org/full/default.jpg", ""),
    ],
)
def test_the_image_of_an_address(url, name):
    assert image_of_url(url) == name


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["id", "@id", "type", "@type", "items", "body", "label", "value", "metadata", "service",
             "sequences", "canvases", "images", "resource", "profile", "width", "sizes", "en",
             "selector", "region", "source", "homepage", "related", "motivation", "@value", "none"]
        ),
        inner, max_size=5,
    ),
    max_leaves=40,
)  # fmt: skip


@given(json_values)
def test_whatever_a_document_says_is_a_photo_or_an_error_of_its_own(document):
    kind_of_document(document)
    if not isinstance(document, dict):
        return
    list(members(document))
    try:
        for image in canvas_images(document, "https://x.org"):
            if not isinstance(image, str):
                assert all(isinstance(v, str) and v.encode() for v in image.metadata.values())
                ImageService.parse({"id": "https://x.org", **image.resource}).photo_url()
    except ValueError:
        pass


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", "is no IIIF manifest"),
        ("[1, 2]", "is no IIIF manifest"),
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_that_is_no_manifest_is_named(tmp_path, text, reason):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(UsageError, match=f"m.json: {reason}"):
        scan([tmp_path / "m.json"])
    with pytest.raises(UsageError, match=r"absent\.json: no such"):
        scan([tmp_path / "absent.json"])


def test_only_web_servers_are_asked_and_collections_in_circles_end(tmp_path):
    here = (tmp_path / "c.json").resolve().as_uri()
    collection = {
        "id": "https://x.invalid/c", "type": "Collection",
        "items": [
            {"id": "https://x.invalid/c", "type": "Collection"},
            {"id": here, "type": "Manifest"},
            {"id": "https://user:secret@x.invalid/m", "type": "Manifest"},
            {**BOOK_3, "items": [*BOOK_3["items"], {
                "id": "https://x.org/c", "type": "Canvas", "items": [{"items": [{
                    "body": {"type": "Image", "id": "file:///etc/passwd"}}]}]}]},
        ],
    }  # fmt: skip
    (tmp_path / "c.json").write_text(json.dumps(collection))
    listing = scan([tmp_path / "c.json"])
    assert [photo.path.url for photo in listing.photos] == [
        "https://example.org/iiif/book1/page1/full/1200,1600/0/default.jpg"
    ]
    reasons = {failure.path: failure.reason for failure in listing.failures}
    assert reasons[here] == "is not on a web server"
    assert "no photo on a web server" in reasons["x.org/c"]
    assert "secret" not in reasons["https://user:secret@x.invalid/m"]
    assert listing.passed_over == {"canvases without an image": 1}
