"""How long the pages of ``delg serve`` take: ``delg eval speed --pages``, over an index of yours
or many synthetic photos, each with a label and metadata of its own."""

from __future__ import annotations

import http.client
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np

from delg.errors import DelgError
from delg.types import ImageFeatures
from eval.speed.harness import Bench, Result, Row, milliseconds, stage
from eval.speed.server_load import running_server
from eval.speed.synthetic import photo
from index.feature_spec import FeatureSpec
from index.image_index import ImageIndex
from index.storage.catalog_state import FILE as CATALOG_FILE
from index.storage.catalog_tables import ImageRow
from index.storage.store import Store

_PHOTOS, _QUICK_PHOTOS = 200_000, 2_000
_ROOMS, _ARTISTS = 100, 3_000
_GLOBAL_DIM, _LOCAL_DIM, _FEATURES = 16, 32, 2
_AT_ONCE = 10_000
_WAIT = 120
# By name of the row: the address, with what a photo of the index is called in it.
_ADDRESSES = {
    "page_search": "/",
    "page_like": "/?id={id}",
    "page_browse": "/browse",
    "page_browse_middle": "/browse?page={middle}",
    "page_browse_last": "/browse?page={last}",
    "page_browse_newest": "/browse?sort=newest&page={middle}",
    "page_browse_largest": "/browse?sort=largest&page={middle}",
    "page_browse_by_label": "/browse?sort=label&page={middle}",
    "page_browse_text": "/browse?q={text}",
    "page_browse_key": "/browse?key={key}",
    "page_browse_value": "/browse?key={key}&value={value}",
    "page_browse_label": "/browse?label={label}",
    "page_image": "/image?id={id}",
    "page_labels": "/labels",
    "page_labels_search": "/labels?q={text}",
    "page_labels_last": "/labels?order=name&page={last_label}",
    "page_label": "/label?name={label}",
    "page_map": "/map",
    "page_places": "/places",
    "page_batch": "/batch",
    "page_saved": "/searches",
    "page_duplicates": "/duplicates",
    "page_failures": "/failures",
    "page_trash": "/trash",
    "page_changes": "/changes",
    "page_statistics": "/stats",
    "page_api": "/api",
    "page_facets": "/facets",
    "api_facets": "/api/facets",
    "api_facets_where": "/api/facets?where={where}",
    "api_facets_label": "/api/facets?where=label%3D{label}",
    "api_stats": "/api/stats",
    "api_image": "/api/images/{id_path}",
    "api_metrics": "/metrics",
}


@stage(*_ADDRESSES, extra="pages")
def pages(bench: Bench) -> Iterator[Result]:
    """Each page, the first request after the start included (it is the slowest, mostly)."""
    folder = bench.index
    if folder is None:
        folder = bench.folder / "index"
        make_labelled_index(folder, _QUICK_PHOTOS if bench.quick else _PHOTOS)
    names, count = _names_in(folder)
    with running_server(folder) as (process, address):
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=_WAIT)
        # What is prepared in the background is no page's time.
        _get(connection, "/api/stats")
        _get(connection, "/api/facets")
        for row, path in _ADDRESSES.items():
            get = partial(_get, connection, path.format(**names))
            before, times = _cpu_ms(process.pid), []
            for _ in range(bench.runs):
                times.append(milliseconds(get))
            note = f"{path}, {count:,} photos"
            if before is not None and (after := _cpu_ms(process.pid)) is not None:
                note = f"{(after - before) / bench.runs:.0f} ms of processors; {note}"
            yield Row.of(row, times, note=note)


def _get(connection: http.client.HTTPConnection, target: str) -> None:
    connection.request("GET", target)
    response = connection.getresponse()
    response.read()
    # Without a map, prometheus_client and the like, that is what the page says.
    if response.status not in (200, 404):
        raise DelgError(f"{target}: the server answers {response.status}")


def _cpu_ms(process: int) -> float | None:
    """What a process has taken of the processors; None where nobody knows."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None


def make_labelled_index(folder: Path, count: int) -> None:
    """An index of synthetic photos with few features, a label each, and metadata."""
    spec = FeatureSpec("made-up", _GLOBAL_DIM, _LOCAL_DIM, aggregated=False)
    ImageIndex.create_for_features(folder, spec).close()
    local = photo(_FEATURES, _LOCAL_DIM, _GLOBAL_DIM).local
    store, rng = Store(folder), np.random.default_rng(0)
    with closing(store), store.lock():
        for start in range(0, count, _AT_ONCE):
            numbers = range(start, min(count, start + _AT_ONCE))
            vectors = rng.normal(size=(len(numbers), _GLOBAL_DIM)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            features = [ImageFeatures(vector, local, 1024, 768) for vector in vectors]
            store.commit([_row(number) for number in numbers], features)
        store.save_ann_index()


def _row(number: int) -> ImageRow:
    metadata = {
        "room": f"{number % _ROOMS}",
        "artist": f"Artist {number % _ARTISTS}",
        "inventory": f"Inv. {number:06d}",
    }
    return ImageRow(
        f"shelf {number % _ROOMS}/{number:06d}.jpg", "", 0, 0, "", label=f"Object {number:06d}",
        width=1024, height=768 + number % _ARTISTS, metadata=metadata,
    )  # fmt: skip


def _names_in(folder: Path) -> tuple[dict[str, object], int]:
    """What stands in addresses, for an index, and the number of its photos."""
    with closing(sqlite3.connect(folder / CATALOG_FILE)) as db:
        photos, labels, middle = db.execute(
            "SELECT count(*), count(DISTINCT label), max(row) / 2 FROM images WHERE state = 'ok'"
        ).fetchone()
        image_id, label, key, value = db.execute(
            "SELECT images.id, label, each.key, each.value FROM images "
            "LEFT JOIN json_each(metadata) AS each WHERE row >= ? AND state = 'ok' LIMIT 1",
            (middle,),
        ).fetchone()
    words = {"label": label or "", "key": key or "", "value": value or "", "text": "9"}
    words |= {"where": f"{key}={value}" if key else f"label={label}", "id": image_id}
    return {
        **{name: quote(str(word), safe="") for name, word in words.items()},
        "id_path": quote(image_id, safe=""), "middle": photos // 96 + 1, "last": photos // 48,
        "last_label": max(1, labels // 60),
    }, photos  # fmt: skip
