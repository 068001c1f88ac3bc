"""The shortlist by local features finds what the global descriptor misses, and stays true to what
is in the index."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from dots import DotModel, Dots, dots, gallery, model_folder

from delg.extraction.aggregation import asmk, asmk_star_similarity
from index import ImageIndex, IndexSettings
from index.search.local_shortlist import Shortlist, quantize_query
from index.search.scatter import Scatter
from index.search.search import Search
from index.search.shard import LocalShard
from index.selection import Selection
from index.storage.inverted_file import InvertedFile
from index.storage.segments import Segment, SegmentError
from index.storage.store import Store
from index.storage.vocabulary import Vocabulary, read_vocabulary, write_vocabulary

ALL_WORDS = {"store": {"max_words": 500, "max_features": 1000}}


def descriptors(model: DotModel, folder: Path) -> np.ndarray:
    return np.concatenate(
        [model.extract(path).local.descriptors for path in sorted(folder.iterdir())]
    )


@pytest.fixture
def folder(tmp_path, photos) -> Path:
    """A model's folder with a vocabulary."""
    folder = model_folder(tmp_path / "model")
    vocabulary = Vocabulary.train(descriptors(DotModel(folder), photos), words=300)
    write_vocabulary(folder / "vocabulary.h5", vocabulary)
    return folder


def new_index(path: Path, folder: Path, **settings: dict) -> ImageIndex:
    images = ImageIndex.create(path, str(folder), settings=IndexSettings.model_validate(settings))
    images.use(DotModel(folder))
    return images


def join(*parts: Dots) -> Dots:
    points, first = np.unique(
        np.concatenate([part.points for part in parts]), axis=0, return_index=True
    )
    return Dots(points, np.concatenate([part.colours for part in parts])[first], parts[0].size)


@pytest.fixture
def hidden(tmp_path) -> tuple[Path, Dots]:
    """41 photos, of which one shares 30 of its 530 dots with a query of as many: too few for the
    global descriptor."""
    shared = dots(7000, 30)
    gallery(tmp_path / "many", 40, first=3000)
    join(shared, dots(7001, 250), dots(7003, 250)).save(tmp_path / "many" / "hidden.png")
    return tmp_path / "many", join(shared, dots(7002, 250), dots(7004, 250))


def words_of(store: Store) -> dict[str, tuple[bytes, bytes]]:
    """The words of all photos as the segments hold them, by id."""
    words = {}
    for image in store.catalog.images("ok"):
        photo = store.segments[image.segment].postings.photo(image.position)
        words[image.id] = photo.words.tobytes(), photo.signs.tobytes()
    return words


def test_what_the_global_descriptor_misses_is_verified(tmp_path, folder, hidden):
    photos, query = hidden
    images = new_index(tmp_path / "my.index", folder, **ALL_WORDS)
    images.add(photos)
    pixels = query.pixels()
    # Going deeper would find it as well.
    images.configure({"local_shortlist": {"enabled": False}, "ranking": {"deepen": 0}})
    without = images.query(pixels, k=3, rerank=3, orientations="1")
    assert not any(hit.verified for hit in without)
    images.configure({"local_shortlist": {"enabled": True}})
    hits = images.query(pixels, k=3, rerank=3, orientations="1")
    assert hits[0].id == "hidden.png" and hits[0].verified and len(hits) == 3
    # Its score is that of any other way to it.
    everything = images.query(pixels, k=41, rerank=41, orientations="1")
    assert everything[0].id == "hidden.png" and everything[0].score == hits[0].score
    assert len({hit.id for hit in everything}) == 41
    # With nothing to verify the global order stays, and what is left out does not come back.
    global_only = images.query(pixels, k=41, rerank=0)
    assert [hit.similarity for hit in global_only] == sorted(
        (hit.similarity for hit in global_only), reverse=True
    )
    search = Search(
        Scatter([LocalShard(images._store)]), images.extractor, pixels, images._model.calibration
    )
    assert "hidden.png" not in {hit.id for hit in search.hits(41, 3, "1", ["hidden.png"])}


def test_going_deeper_asks_once_more_and_gives_what_a_first_question_gives(
    tmp_path, folder, hidden
):
    photos, query = hidden
    images = new_index(tmp_path / "my.index", folder, **ALL_WORDS)
    images.add(photos)
    features = images.extractor.extract(query.pixels())
    shards = Scatter([LocalShard(images._store)])
    words = quantize_query(shards.context, features.local.descriptors)
    asked = []
    ask_all = shards.ask_all
    shards.ask_all = lambda request: asked.append(request) or ask_all(request)

    def shortlist() -> Shortlist:
        return Shortlist(shards, features.global_descriptor, words, Selection(), deepest=12)

    growing = shortlist()
    for depth in (3, 6, 12):
        grown = growing.candidates(15, depth)
        assert list(grown.items()) == list(shortlist().candidates(15, depth).items())
        assert len(grown) == 15
    assert len(asked) == 2 + 3


def test_photos_in_several_indexes(tmp_path, folder, hidden, photos):
    many, query = hidden
    one, two = new_index(tmp_path / "one", folder, **ALL_WORDS), new_index(tmp_path / "two", folder)
    one.add(photos)
    two.configure({"local_shortlist": {"weight": 0.15}})
    two.add(many)
    hits = one.search(query.pixels(), others=[two]).hits(5, 5, "1")
    assert {hit.id for hit in hits} <= set(one.ids()) | set(two.ids()) and len(hits) == 5


def test_words_equal_comparing_photo_by_photo(tmp_path, folder, photos):
    images = new_index(tmp_path / "my.index", folder, **ALL_WORDS)
    images.add(photos)
    store, vocabulary = images._store, read_vocabulary(folder / "vocabulary.h5", 32)
    query = images.features("004.png").local.descriptors
    rows, similarities = store.word_similarities(vocabulary.query_words(query, 2))
    for row, similarity in zip(rows.tolist(), similarities.tolist(), strict=True):
        other = store.features(store.catalog.by_row(row)).local.descriptors
        expected = asmk_star_similarity(
            asmk(vocabulary.residuals(query, 2)), asmk(vocabulary.residuals(other))
        )
        assert similarity == pytest.approx(expected, abs=1e-6)
    assert store.catalog.by_row(int(rows[similarities.argmax()])).id == "004.png"


def test_adding_removing_and_compacting(tmp_path, folder, photos, monkeypatch):
    images = new_index(tmp_path / "my.index", folder, store={"segment_images": 4})
    images.add(photos)
    vocabulary = images._store.vocabulary
    assert images.info()["vocabulary"] == vocabulary.digest
    query = vocabulary.query_words(images.features("004.png").local.descriptors, 1)

    def similarities(images: ImageIndex) -> dict[str, float]:
        rows, values = images._store.word_similarities(query)
        return dict(zip(images._store.catalog.ids(rows), values.tolist(), strict=True))

    before = similarities(images)
    assert sorted(before) == images.ids()
    words = images.path / "words.h5"
    outdated = words.read_bytes()
    images.remove(["003.png", "008.png"])
    left = {name: value for name, value in before.items() if name not in ("003.png", "008.png")}
    assert similarities(images) == left
    written = words_of(images._store)
    images.compact()
    assert similarities(images) == left and words_of(images._store) == written
    with monkeypatch.context() as patch:
        # A file that shows the present state is read, and the segments are not.
        patch.setattr(InvertedFile, "update", None)
        assert similarities(ImageIndex.open(images.path)) == left
    assert images.check().problems == images.check().notes == []
    gallery(photos, 2, first=50)
    images.add(photos)
    reader = ImageIndex.open(images.path)
    assert similarities(images) == similarities(reader)
    assert similarities(images).items() >= before.items() and len(images) == 14
    # Whatever is in the file that is derived from the segments.
    for content in (outdated, words.read_bytes()[:-100], b""):
        words.write_bytes(content)
        assert similarities(ImageIndex.open(images.path)) == similarities(images)
    # A reader follows what others do.
    images.remove(["050.png"])
    assert "050.png" in similarities(reader)
    reader.refresh()
    assert similarities(reader) == similarities(images)


def test_indexes_made_before_get_their_words_by_compaction(tmp_path, folder, photos):
    vocabulary = tmp_path / "vocabulary.h5"
    shutil.move(folder / "vocabulary.h5", vocabulary)
    old = new_index(tmp_path / "old.index", folder)
    old.add(photos)
    assert old._store.inverted_file() is None and not old.check().notes
    shutil.copy(vocabulary, folder)
    # Photos that are added have words at once; queries find both kinds.
    gallery(photos, 1, first=90)
    old.add(photos)
    assert len(old._store.inverted_file()) == 1
    assert [old.query(photos / f"{name}.png")[0].id for name in ("005", "090")] == [
        "005.png",
        "090.png",
    ]
    assert "compact adds them" in " ".join(old.check().notes)
    old.compact()
    new = new_index(tmp_path / "new.index", folder)
    new.add(photos)
    assert words_of(old._store) == words_of(new._store) and not old.check().notes
    # A vocabulary that was learnt anew: the words of before count no longer.
    other = Vocabulary.train(descriptors(DotModel(folder), photos), words=30)
    write_vocabulary(folder / "vocabulary.h5", other)
    reopened = ImageIndex.open(old.path)
    assert reopened._store.inverted_file() is None
    assert reopened._store.vocabulary is None
    old.compact()
    assert old._store.vocabulary.digest == other.digest and len(old._store.inverted_file()) == 13


def test_no_words_are_kept_where_settings_say_so(tmp_path, folder, photos):
    images = new_index(tmp_path / "my.index", folder, store={"max_words": 0})
    images.add(photos)
    assert images._store.inverted_file() is None
    [segment] = images._store.segments.values()
    assert segment.postings is None and not images.check().notes
    kept = new_index(tmp_path / "kept.index", folder, store={"max_words": 7})
    kept.add(photos)
    [segment] = kept._store.segments.values()
    assert set(segment.postings.counts.tolist()) == {7}


def test_a_segment_with_broken_words_is_refused(tmp_path, folder, photos):
    images = new_index(tmp_path / "my.index", folder)
    images.add(photos)
    images.close()
    [path] = (images.path / "segments").iterdir()
    with h5py.File(path, "r+") as file:
        file["word_counts"][0] = 40
    with pytest.raises(SegmentError, match="do not fit each other"):
        Segment(path)


@pytest.fixture
def local_only(tmp_path, photos) -> Path:
    """A model without a global head, with a vocabulary."""
    folder = model_folder(tmp_path / "local")
    (folder / "settings.yaml").write_text(
        "name: local dots\nlocal_only: true\nglobal_head: {dim: 528}\nlocal_head: {dim: 32}\n"
    )
    vocabulary = Vocabulary.train(descriptors(DotModel(folder), photos), words=300)
    write_vocabulary(folder / "vocabulary.h5", vocabulary)
    return folder


def test_without_a_global_head_asmk_is_the_similarity(tmp_path, local_only, photos):
    images = new_index(tmp_path / "my.index", local_only, **ALL_WORDS)
    images.add(photos)
    store, vocabulary = images._store, images._store.vocabulary
    query = images.features("004.png")
    hits = images.query_features(query, k=12, rerank=0)
    rows, values = store.word_similarities(vocabulary.query_words(query.local.descriptors, 5))
    expected = dict(zip(store.catalog.ids(rows), values.tolist(), strict=True))
    assert {hit.id: hit.similarity for hit in hits} == pytest.approx(expected)
    similarities = [hit.similarity for hit in hits]
    assert similarities == sorted(similarities, reverse=True) and hits[0].id == "004.png"
    assert "004.png" not in {hit.id for hit in images.query_features(query, 12, 0, ["004.png"])}
    assert images.query_features(query, k=3)[0].verified
    # As long as some photos have no words, the aggregate of all decides.
    store.remove(["003.png"])
    (local_only / "vocabulary.h5").unlink()
    reopened = ImageIndex.open(images.path)
    assert reopened.query_features(query, k=1)[0].id == "004.png"


def test_without_a_vocabulary_the_aggregate_stands_in_and_says_so(
    tmp_path, local_only, photos, caplog
):
    (local_only / "vocabulary.h5").unlink()
    with caplog.at_level("INFO"):
        images = new_index(tmp_path / "my.index", local_only)
    assert "delg model vocabulary" in caplog.text
    images.add(photos)
    assert images.query_features(images.features("004.png"), k=1)[0].id == "004.png"
