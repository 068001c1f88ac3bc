"""The maps, and attacks on them."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from pydantic import ValidationError

from index.serve.settings import ServeSettings


@pytest.fixture
def explored(serve):
    client = serve(writable=True)
    assert "There is no map yet" in client.get("/map").text
    assert client.get("/map/points?version=1").status_code == 404
    with client.service.shared.writing() as images:
        images.explore("pca")
    return client


def test_points_photos_and_selections_agree(explored):
    page = explored.get("/map").text
    version = page.split('data-version="')[1].split('"')[0]
    data = explored.get(f"/map/points?version={version}").content
    assert len(data) == 13 * 60
    positions = np.frombuffer(data[480:720], "<u4")
    groups = np.frombuffer(data[720:], np.uint8)
    assert positions.tolist() == list(range(60)) and np.bincount(groups).tolist() == [4, 28, 28]
    first = explored.get(f"/map/photo?at=0&version={version}").json()
    chosen = struct.pack("<3I", 0, 5, 0)
    headers = {"content-type": "application/octet-stream"}
    answer = explored.post(f"/map/selection?version={version}", content=chosen, headers=headers)
    assert "2 photos selected" in answer.text and first["id"] in answer.text.replace("<wbr>", "")
    table = explored.post(f"/map/selection.csv?version={version}", content=chosen, headers=headers)
    assert table.text.count("\n") == 3 and first["id"] in table.text
    assert "No photo has coordinates" in explored.get("/places").text
    for at in (-1, 60, 10**30):
        assert explored.get(f"/map/photo?at={at}&version={version}").status_code == 422
    bad = [b"abc", struct.pack("<I", 60), struct.pack("<I", 2**32 - 1)]
    for data in bad:
        refused = explored.post(f"/map/selection?version={version}", content=data, headers=headers)
        assert refused.status_code == 422
    evil = {**headers, "origin": "http://evil.example"}
    assert explored.post("/map/selection?version=1", content=b"", headers=evil).status_code == 403
    # Positions of another map mean other photos.
    assert explored.get("/map/points?version=1").status_code == 422
    explored.delete("/api/images/" + first["id"].replace("/", "%2F"))
    assert explored.get(f"/map/photo?at=0&version={version}").status_code == 404


def test_tiles_are_loaded_from_one_place_alone(serve):
    client = serve(tiles="https://tiles.example/{z}/{x}/{y}.png")
    with client.service.shared.writing() as images:
        images.explore("pca")
    policy = client.get("/places").headers["content-security-policy"]
    assert "img-src 'self' https://tiles.example blob: data:;" in policy
    assert "tiles.example" not in client.get("/map").headers["content-security-policy"]


@pytest.mark.parametrize(
    "tiles",
    [
        "http://t.example/{z}/{x}/{y}", "https://t.example/{z}/{x}", "{z}{x}{y}",
        "https://t.example; script-src *;/{z}/{x}/{y}", "https:///{z}/{x}/{y}",
    ],
)  # fmt: skip
def test_tiles_that_would_open_the_policy_are_refused(tiles):
    with pytest.raises(ValidationError):
        ServeSettings(tiles=tiles)
