"""Clients that search, add, remove and send nonsense at once."""

from __future__ import annotations

import io
import threading
import urllib.error
import urllib.request

from dots import DotModel, dots, gallery
from PIL import Image
from servers import at_port
from stage import Stage

from index import ImageIndex
from index.serve.app import make_app
from index.serve.service import Service
from index.serve.settings import ServeSettings
from index.serve.shared_index import SharedIndex

_CLIENTS = 8
# Seconds until a client gives up, on a machine that others use too.
_PATIENCE = 300


def _photo(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(dots(seed).pixels()).save(stream, "PNG")
    return stream.getvalue()


def attacks(stage: Stage) -> None:
    """Eight clients; no answer is an internal error, and what was added is there afterwards."""
    gallery(stage.folder / "photos", 12)
    place = stage.folder / "i"
    with ImageIndex.create(place, str(stage.model)) as images:
        images.use(DotModel(stage.model))
        images.add(stage.folder / "photos")
    settings = ServeSettings(writable=True)
    service = Service(SharedIndex(place, extractor=DotModel(stage.model)), settings)
    lock, present = threading.Lock(), {f"{number:03d}.png" for number in range(12)}
    unknown: set[str] = set()

    def send(method: str, path: str, body: bytes | None = None) -> int:
        headers = {"content-type": "image/png"}
        request = urllib.request.Request(address + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def client(number: int) -> None:
        count = 0
        while stage.runs():
            count += 1
            with lock:
                what, data = stage.chance.randrange(4), stage.mutated(_photo(3))
            name, own = f"{number}-{count}", []
            try:
                if what == 0:
                    status = send("POST", "/api/query?k=5", _photo(count % 12))
                elif what == 1:
                    status = send("POST", "/api/query", data)
                elif what == 2:
                    status = send("POST", f"/api/images?id={name}", _photo(1000 + count))
                    if status == 201:
                        with lock:
                            present.add(name)
                else:
                    with lock:
                        own = [name for name in present if name.startswith(f"{number}-")]
                    status = send("DELETE", f"/api/images/{own[0] if own else 'none'}")
                    if status == 200 and own:
                        with lock:
                            present.discard(own[0])
            except OSError as error:
                # Nobody knows whether it was done.
                with lock:
                    unknown.update({name, *own})
                status, name = 599, f"{name}: {error}"
            with lock:
                stage.count(status < 500 or status == 503, f"{what} {name}: {status}")

    with at_port(make_app(service), settings) as address:
        clients = [threading.Thread(target=client, args=(number,)) for number in range(_CLIENTS)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
    with ImageIndex.open(place) as images:
        report = images.check()
        different = (set(images.ids()) ^ present) - unknown
        stage.count(not report.problems and not different, (report.problems, different))
        stage.count(not any("upload" in note for note in report.notes), report.notes)
