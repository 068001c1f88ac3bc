"""An index in other processes: forks of one that has queried, and readers that may not write."""

import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from dots import DotModel, dots, gallery

from delg.errors import UsageError
from index import ImageIndex

FORKS = """
import multiprocessing, os, signal, sys
from index import ImageIndex

images, photo = ImageIndex.open(sys.argv[1]), sys.argv[2]

def hits(_=None):
    return [(hit.id, hit.inliers) for hit in images.query(photo)]

expected = hits()
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map_async(hits, range(4)).get(240) == [expected] * 4
child = os.fork()
if child == 0:
    signal.alarm(240)
    sys.exit(7 if hits() == expected else 8)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert hits() == expected
"""
NOBODY = 65534


def test_forks_of_a_process_that_has_queried_can_query_and_end(real_index, real_photos):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, "-c", FORKS, real_index.path, real_photos / "cat.jpg"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr


def test_a_closed_index_says_so_whatever_is_asked(make_index, photos):
    images = make_index()
    images.add(photos)
    images.close()
    images.close()
    calls: list[Callable[[], object]] = [
        lambda: images.query(photos / "000.png"), lambda: images.add(photos), images.ids,
        lambda: images.remove(["000.png"]), images.refresh, images.check, images.compact,
        images.info, images.failures, images.duplicates, images.vanished, lambda: len(images),
        lambda: images.settings, lambda: images.fingerprint, lambda: images.extractor,
        lambda: images.accepts_images, lambda: images.feature_spec, images.unreadable_segments,
        lambda: images.image("000.png"), lambda: images.features("000.png"), images.counts,
        lambda: images.configure({}), lambda: images.check_model("delg-lite"),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(UsageError, match="this index is closed"):
            call()


@pytest.fixture
def public_folder():
    """A folder that everybody can look into."""
    folder = Path(tempfile.mkdtemp(prefix="delg-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


class Reader:
    """A process without the permission to write, which reads an index when it is told to."""

    def __init__(self, index: Path, model: DotModel) -> None:
        down, self._down = os.pipe()
        self._up, up = os.pipe()
        self._child = os.fork()
        if self._child:
            os.close(down)
            os.close(up)
            return
        os.close(self._down)
        os.close(self._up)
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            images = ImageIndex.open(index)
            images.use(model)
            while word := os.read(down, 1):
                if word == b"r":
                    images.refresh()
                os.write(up, f"{self.read(images)}\n".encode())
        except BaseException:
            os.write(up, f"{traceback.format_exc()!r}\n".encode())
        os._exit(0)

    @staticmethod
    def read(images: ImageIndex) -> str:
        """The number of images, all of which can be read and found."""
        ids = images.ids()
        assert len(ids) == len(images)
        for image_id in ids:
            images.features(image_id)
            assert images.query(dots(int(image_id[:3])).pixels(), k=1)[0].id == image_id
        return str(len(ids))

    def count(self, refresh: bool = False) -> str:
        os.write(self._down, b"r" if refresh else b"s")
        with os.fdopen(os.dup(self._up)) as answers:
            return answers.readline().strip()

    def stop(self) -> None:
        os.close(self._down)
        os.waitpid(self._child, 0)
        os.close(self._up)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_a_reader_that_may_not_write_sees_one_state_while_the_owner_changes_it(
    public_folder, dot_model_folder, model
):
    photos = public_folder / "photos"
    gallery(photos, 12)
    files = sorted(photos.iterdir())
    index = public_folder / "i"
    with ImageIndex.create(index, str(dot_model_folder)) as images:
        images.use(model)
        images.add(files[:4])
        # What this loads cannot be loaded by somebody who may not look into our home.
        Reader.read(images)
    reader = Reader(index, model)
    try:
        # No writer is there: nothing but the reader's own copy keeps its state.
        assert reader.count() == "4"
        with ImageIndex.open(index) as images:
            images.use(model)
            images.add(files[4:8])
            assert reader.count() == "4"
            assert reader.count(refresh=True) == "8"
            images.remove(["000.png", "005.png"])
            images.compact()
            assert reader.count() == "8"
            assert reader.count(refresh=True) == "6"
        with ImageIndex.open(index) as images:
            images.use(model)
            images.add(files[8:])
        assert reader.count() == "6"
        assert reader.count(refresh=True) == "10"
    finally:
        reader.stop()
