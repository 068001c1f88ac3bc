"""An index on disk as one object: catalog, segments, ANN index, and the order of commits.

A batch of photos is committed like this: its segment is written under another name, flushed and
renamed; one transaction records the segment and its photos; the ANN index follows last and can be
rebuilt from the rest. Killed anywhere between, the index is as it was at the last transaction.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from delg.errors import DelgError, UsageError
from delg.paths import exists, is_folder
from delg.types import ImageFeatures
from index.settings import IndexSettings, record
from index.storage.adaptation import ADAPTATION, ADAPTATION_DIGEST, Adaptation
from index.storage.catalog import Catalog
from index.storage.catalog_state import FILE as CATALOG_FILE
from index.storage.catalog_tables import (
    ImageRow,
    SegmentRow,
    count_change,
    delete_empty_segments,
    delete_images,
    insert_segment,
    put_images,
    rename_images,
    update_images,
)
from index.storage.codebook import codebook_digest, codebook_to_text
from index.storage.inverted_file import MAX_BLOCK_IMAGES
from index.storage.lock import LOCK_FILES, BusyError, writer_lock
from index.storage.opened_store import CODEBOOK
from index.storage.product_quantizer import ProductQuantizer
from index.storage.searchable_store import SearchableStore
from index.storage.segment_writer import SegmentWriter
from index.storage.segments import FOLDER, segment_path
from index.storage.trash import TRASH, log_changes, restore_images, trash_images
from index.storage.vocabulary import VOCABULARY_DIGEST, Vocabulary
from index.storage.word_file import save_inverted_file

# What the catalog calls the digest of the codebook.
CODEBOOK_DIGEST = "codebook_digest"
# What a killed attempt to create an index may leave in its folder.
_LEFTOVERS = {f"{CATALOG_FILE}.tmp", f"{CATALOG_FILE}.tmp-journal", *LOCK_FILES}
# Seconds to wait for another process that is creating the same index, and between two looks.
_CREATE_SECONDS, _CREATE_PAUSE = 10.0, 0.02
# A large inverted file is written when one photo in so many has changed.
_MIN_CHANGED = 100


def check_usable(folder: Path, leftovers: Collection[str] = ()) -> None:
    """Refuse a folder that holds anything but what attempts to create an index leave.

    Args:
        leftovers: further names that such attempts leave.

    Raises:
        UsageError: it holds something else.
    """
    if not exists(folder):
        return
    names = {path.name for path in folder.iterdir()} if is_folder(folder) else {"a file"}
    if not names <= _LEFTOVERS.union(leftovers):
        raise UsageError(f"{folder}: exists and is not empty; choose another place for the index")


def codebook_meta(codebook: ProductQuantizer) -> dict[str, str]:
    """What the catalog of an index records of a codebook."""
    return {CODEBOOK: codebook_to_text(codebook), CODEBOOK_DIGEST: codebook_digest(codebook)}


class Store(SearchableStore):
    """One consistent state of an index, and the ways to change it.

    Args:
        folder: of the index.
    """

    @classmethod
    def create(
        cls,
        folder: Path,
        meta: dict[str, str],
        settings: IndexSettings,
        beside: Collection[str] = (),
    ) -> Store:
        """A new, empty index.

        Args:
            folder: to create; it must not exist or be empty.
            meta: what the catalog records of the model.
            settings: to record as well.
            beside: names of files that may lie in the folder.

        Raises:
            UsageError: the folder is in use; if another process was first to create an index
                there, it exists now.
            BusyError: another process writes there.
            DelgError: it cannot be created.
        """
        values = {**meta, "settings": record(settings)}
        until = time.monotonic() + _CREATE_SECONDS
        while True:
            try:
                # Before anything is put into a folder that may be somebody's photos.
                check_usable(folder, beside)
                folder.mkdir(parents=True, exist_ok=True)
                with writer_lock(folder):
                    check_usable(folder, beside)
                    Catalog.create(folder, values)
                return cls(folder)
            except BusyError:
                # Whoever creates it is done in a moment, but may go on to write for hours.
                if time.monotonic() > until:
                    raise
                time.sleep(_CREATE_PAUSE)
            except OSError as error:
                raise DelgError(f"{folder}: cannot be made: {error.strerror}") from None

    def set_settings(self, settings: IndexSettings) -> None:
        """Record other settings, and rebuild the ANN index if they ask for another."""
        needs_rebuild = settings.shortlist != self.settings.shortlist
        self.catalog.set_meta("settings", record(settings))
        self.settings = settings
        self._inverted_file = None
        if needs_rebuild:
            self._region_index = None
            self.rebuild_ann_index()
            self.save_ann_index()

    def set_codebook(self, codebook: ProductQuantizer) -> None:
        """Encode new photos by that from now on; under the lock."""
        with self.catalog.write() as db:
            for key, value in codebook_meta(codebook).items():
                db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Keep words of that vocabulary from now on; under the lock."""
        self.catalog.set_meta(VOCABULARY_DIGEST, vocabulary.digest)
        self._vocabulary, self._inverted_file = vocabulary, None

    def set_adaptation(self, adaptation: Adaptation | None, meta: Mapping[str, str]) -> None:
        """Project global descriptors by that from now on, or not at all; under the lock.

        Args:
            adaptation: learnt from descriptors as the model makes them.
            meta: what else to record, in the same transaction; an empty text removes its key.
        """
        values = {ADAPTATION: "", ADAPTATION_DIGEST: ""}
        values |= {**(adaptation.as_meta() if adaptation else {}), **meta}
        with self.catalog.write() as db:
            for key, value in values.items():
                db.execute("DELETE FROM meta WHERE key = ?", (key,))
                if value:
                    db.execute("INSERT INTO meta VALUES (?, ?)", (key, value))
            count_change(db)
        self.adaptation, self.ann_index_current = adaptation, False
        self._region_index = None
        self.rebuild_ann_index()
        self.save_ann_index()

    def save_ann_index(self) -> None:
        """Write the ANN index as showing the present state; under the lock."""
        if self.unreadable:
            return  # The stored one still knows the photos of a segment that may come back.
        self.ann_index.save(self.folder, self.catalog.generation, self._space)
        self.ann_index_current, self._ann_state = True, self._present_state()
        self._save_words()
        regions = self.region_index()
        if regions is not None:
            regions.save(self.folder, self.catalog.generation, self._space)

    def _save_words(self) -> None:
        """Write the inverted file, unless it is large and little has changed: then bringing it up
        to date costs less than writing it with every photo that is added."""
        inverted = self.inverted_file()
        if inverted is None:
            return
        if len(inverted) <= MAX_BLOCK_IMAGES or inverted.changes * _MIN_CHANGED > len(inverted):
            save_inverted_file(self.folder, inverted, self.catalog.generation)
            inverted.changes = 0

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer; the newest state is read first.

        Raises:
            BusyError: another process writes.
            DelgError: the folder cannot be written to.
        """
        with writer_lock(self.folder):
            self.refresh()
            # Whoever writes can repair what is damaged.
            self.segments.read_all()
            for path in self.orphans():
                path.unlink(missing_ok=True)
            yield

    def orphans(self) -> list[Path]:
        """Files that a killed writer left behind and no catalog entry names."""
        known = {segment_path(self.folder, row.number) for row in self.catalog.segments()}
        segments = set((self.folder / FOLDER).glob("*.h5*")) - known
        return sorted([*segments, *self.folder.glob("*.tmp*")])

    def write_segment(
        self, number: int, ids: Sequence[str], features: Sequence[ImageFeatures]
    ) -> SegmentRow:
        """Write features as a new segment, which the catalog does not know yet."""
        settings, vocabulary = self.settings.store, self._vocabulary
        writer = SegmentWriter(self.folder, settings, self.codebook, vocabulary)
        return writer.write(number, ids, features)

    def rewrite_segment(
        self, number: int, images: Sequence[ImageRow], codebook: ProductQuantizer | None
    ) -> SegmentRow:
        """Write stored images as a new segment, which the catalog does not know yet.

        Args:
            codebook: that the segment is encoded by.
        """
        places = map(self._place, images)
        # One after the other, as there may be more segments than files may be open.
        sources = ((self.segments[segment], position) for segment, position in places)
        writer = SegmentWriter(self.folder, self.settings.store, codebook, self._vocabulary)
        return writer.rewrite(number, [image.id for image in images], sources)

    def copy_in(
        self, images: Sequence[ImageRow], source: Store, codebook: ProductQuantizer | None
    ) -> None:
        """Commit images of another index of the same model under their row numbers, with their
        features as they are stored there; under the lock. The ANN index is rebuilt by the caller.

        Args:
            images: those with features are encoded by ``codebook`` there.
        """
        usable = [image for image in images if image.state == "ok"]
        placed = [image for image in images if image.state != "ok"]
        number = self.catalog.next_segment()
        if usable:
            places = map(source._place, usable)
            sources = ((source.segments[segment], position) for segment, position in places)
            writer = SegmentWriter(self.folder, self.settings.store, codebook, self._vocabulary)
            segment = writer.rewrite(number, [image.id for image in usable], sources)
            placed += [
                replace(image, segment=number, position=position)
                for position, image in enumerate(usable)
            ]
        with self.catalog.write() as db:
            if usable:
                insert_segment(db, segment)
            put_images(db, placed, {image.id: image.row for image in placed})
        self.reopen_segments()
        self.ann_index_current = False

    def commit(
        self,
        images: Sequence[ImageRow],
        features: Sequence[ImageFeatures],
        rows: Mapping[str, int] | None = None,
    ) -> None:
        """Commit a batch: images with features, in that order, and failed ones without.

        Images already in the index under the same id are replaced.

        Args:
            rows: by id, row numbers that are free, for those that do not take the next.
        """
        usable = [image for image in images if image.state == "ok"]
        failed = [image for image in images if image.state != "ok"]
        replaced = self._rows([image.id for image in images])
        if usable:
            number = self.catalog.next_segment()
            segment = self.write_segment(number, [image.id for image in usable], features)
            usable = [
                replace(image, segment=number, position=position)
                for position, image in enumerate(usable)
            ]
        with self.catalog.write() as db:
            if usable:
                insert_segment(db, segment)
            put_images(db, [*usable, *failed], rows)
            # An unreadable segment whose photos have all been extracted again is repaired.
            delete_empty_segments(db, self.unreadable)
        self.reopen_segments()
        self.ann_index_current = False
        self.update_ann_index(self._rows([image.id for image in usable]), removed=replaced)

    def rename(self, renamed: Mapping[int, str], displaced: Sequence[ImageRow]) -> None:
        """Give images other ids, in one transaction; their features and labels stay.

        Args:
            renamed: row number -> new id.
            displaced: images to remove, whose ids others take.
        """
        with self.catalog.write() as db:
            if displaced:
                delete_images(db, [image.id for image in displaced])
            rename_images(db, renamed.items())
        rows = [image.row for image in displaced if image.state == "ok"]
        if rows:
            self.ann_index_current = False
            self.update_ann_index(np.zeros(0, np.int64), np.array(sorted(rows), np.int64))

    def remove(self, ids: Sequence[str], by: str = "") -> None:
        """Move images to the trash, in one transaction; see :mod:`index.storage.trash`.

        Args:
            by: who removes them, for the log.

        Raises:
            UsageError: an id is not in the index; nothing is removed.
        """
        images = list({image.row: image for image in self.catalog.by_ids(ids)}.values())
        removed = self._rows([image.id for image in images])
        with self.catalog.write() as db:
            trash_images(db, images)
            log_changes(db, "remove", ((image.id, image, None) for image in images), by)
        self.update_ann_index(np.zeros(0, np.int64), removed)
        self.save_ann_index()

    def restore(self, ids: Sequence[str], by: str = "") -> list[ImageRow]:
        """Bring images back from the trash, in one transaction.

        Raises:
            UsageError: an id is not in the trash, its features are gone, or another image has it
                now; nothing is restored.
        """
        images = [self._trashed(image_id) for image_id in dict.fromkeys(ids)]
        with self.catalog.write() as db:
            restore_images(db, images)
            log_changes(db, "restore", ((image.id, None, image) for image in images), by)
        self.reopen_segments()
        self.update_ann_index(self._rows([image.id for image in images]), np.zeros(0, np.int64))
        self.save_ann_index()
        return images

    def _trashed(self, image_id: str) -> ImageRow:
        image = self.catalog.trashed(image_id)
        if image is None:
            raise UsageError(f"{image_id}: not in the trash, or removed for good by a compaction")
        if self.catalog.by_id(image.id) is not None:
            raise UsageError(f"{image_id}: another image has that id now; remove it first")
        if image.segment is not None and self.catalog.segment(image.segment) is None:
            raise UsageError(f"{image_id}: its features are gone; add the photo again")
        return image

    def edit(self, images: Sequence[ImageRow], by: str = "") -> None:
        """Record other labels and metadata of images, in one transaction."""
        before = {image.row: image for image in self.catalog.by_ids([each.id for each in images])}
        with self.catalog.write() as db:
            update_images(db, images)
            edits = ((image.id, before[image.row], image) for image in images)
            log_changes(db, "edit", edits, by)

    def log_added(self, image: ImageRow, by: str = "") -> None:
        """Log that somebody added an image."""
        with self.catalog.write() as db:
            log_changes(db, "add", [(image.id, None, image)], by)

    def empty_trash(self) -> None:
        """Remove for good what is in the trash."""
        if self.catalog.trash(limit=1):
            with self.catalog.write() as db:
                db.execute(f"DELETE FROM {TRASH}")
