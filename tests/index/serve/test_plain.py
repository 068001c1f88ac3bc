"""Photos that are too plain to be verified say so."""

from __future__ import annotations

import json

from dots import dots
from pages import parse

from index import ImageIndex

WORDS = "few features: 3; found by its overall look only"


def test_a_plain_photo_says_so_everywhere(serve, place, model, run, tmp_path):
    dots(7, 3).save(tmp_path / "plain.png")
    images = ImageIndex.open(place)
    images.use(model)
    images.add(tmp_path / "plain.png")
    assert images.plain_photos() == {"plain.png": 3}
    images.close()
    client = serve()
    assert client.get("/api/images/plain.png").json()["notes"] == [WORDS]
    assert client.get("/api/images/plain%2F000.png").json()["notes"] == []
    assert WORDS.capitalize() in parse(client.get("/image?id=plain.png").text).words
    assert "ew features" not in client.get("/image?id=plain/000.png").text
    page = parse(client.get("/browse?plain=true").text)
    [card] = page.all("li", "card")
    assert card.words.startswith("plain.png Few features: 3")
    assert "Too plain (1)" in parse(client.get("/browse").text).words
    assert "No photo matches" in client.get("/browse?plain=true&q=003").text
    query = client.post("/api/query", content=(tmp_path / "plain.png").read_bytes()).json()
    assert query["features"] == 3
    shown = run("index", "info", "--plain", "--index", place).stdout
    assert f"plain: plain.png: {WORDS}" in shown
    listed = json.loads(run("index", "info", "--plain", "--json", "--index", place).stdout)
    assert listed["plain"] == {"plain.png": 3}
