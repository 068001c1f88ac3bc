"""An index that is open: its files, its model and its settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from typing_extensions import Self

from delg.errors import UsageError
from delg.extraction.extractor import Extractor
from index.feature_spec import FeatureSpec
from index.index_model import IndexModel
from index.results import MissingShard
from index.settings import IndexSettings, merge
from index.storage.codebook_fit import Extract
from index.storage.store import Store


class OpenedIndex:
    """An index that is open: its files, its model and its settings.

    It shows the state it was opened in until :meth:`refresh` or a change of its own, whatever other
    processes add meanwhile.

    Args:
        store: of the index.
        model: a shipped model's name or a model's folder, in place of what the index records.

    Attributes:
        path: folder of the index.
    """

    def __init__(self, store: Store, model: str | None = None) -> None:
        self._opened, self._opened_model = store, IndexModel(store, model)
        self._process, self._closed = os.getpid(), False
        self.path = store.folder

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError(f"{self.path}: this index is closed; open it anew")

    @property
    def _store(self) -> Store:
        """What every method works on.

        Raises:
            UsageError: the index is closed.
        """
        self._check_open()
        if self._process != os.getpid():
            self._process = os.getpid()
            self._opened.reopen()
        return self._opened

    @property
    def _model(self) -> IndexModel:
        """The same for methods that need the model; see ``_store``."""
        assert self._store
        return self._opened_model

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files; every other method raises a ``UsageError`` afterwards."""
        if not self._closed and self._process == os.getpid():
            self._opened.close()
        self._closed = True

    def refresh(self) -> None:
        """Show the newest committed state."""
        self._store.refresh()

    @property
    def extractor(self) -> Extractor:
        """The index's model; loaded when first needed.

        Raises:
            ModelError: it is gone, or its fingerprint is no longer that of the stored features.
        """
        return self._model.extractor

    @property
    def _extract(self) -> Extract | None:
        """Extracts photos anew, by a model that is loaded when first needed."""
        return (lambda paths: self.extractor.extract_many(paths)) if self.accepts_images else None

    @property
    def accepts_images(self) -> bool:
        """Whether it was made by a model that is known here, so that photos can search it."""
        return bool(self._model.location)

    @property
    def fingerprint(self) -> str:
        """Of the model that made the features."""
        return self._model.fingerprint

    @property
    def feature_spec(self) -> FeatureSpec:
        """What the features of the index have in common."""
        return FeatureSpec.of(self._store)

    @property
    def pyramid(self) -> tuple[float, ...]:
        """Scales of the levels that local features come from; empty where that is not known."""
        return self._model.pyramid

    def use(self, extractor: Extractor) -> None:
        """Share a model that is loaded already.

        Raises:
            ModelError: the index was made by another.
        """
        self._model.use(extractor)

    def can_use(self, extractor: Extractor) -> bool:
        """Whether what that model makes can be compared with the features of the index."""
        return self._model.is_comparable(extractor.fingerprint)

    def share_model(self, load: Callable[[], Extractor]) -> None:
        """The same for one that is loaded when it is first needed."""
        self._model.share(load)

    def check_model(self, model: str | None) -> None:
        """Make sure that the index was made by that model; None is any.

        Raises:
            UsageError: another made it.
            ModelError: there is no such model.
        """
        if model is not None:
            self._model.check_name(model)

    @property
    def settings(self) -> IndexSettings:
        """As recorded with the index, with overrides of :meth:`configure`."""
        return self._store.settings

    def configure(self, overrides: Any, origin: str = "settings", record: bool = False) -> None:
        """Replace some settings, for this object or, with ``record``, for good.

        Args:
            overrides: plain values by section and key.
            origin: names their source in errors.
            record: write them into the index; another shortlist is built from what is stored.

        Raises:
            UsageError: a key is unknown or fixed, or a value does not fit.
        """
        if not record:
            self._store.override(overrides, origin)
            return
        if merge(self.settings, overrides, origin) == self.settings:
            return
        with self._store.lock():
            self._store.set_settings(merge(self.settings, overrides, origin))

    def meta(self) -> dict[str, str]:
        """What the index records of itself and its model, by key."""
        return self._store.catalog.all_meta()

    @property
    def next_row(self) -> int:
        """The row number after the highest that an image ever had."""
        return self._store.catalog.next_row()

    def is_blank(self) -> bool:
        """Whether it holds nothing, not even a photo that failed."""
        return not next(self._store.catalog.images(), None)

    @property
    def generation(self) -> int:
        """Counts the changes of what can be found; equal numbers mean the same images."""
        return self._store.catalog.generation

    def missing_shards(self) -> Sequence[MissingShard]:
        """The parts of a sharded index that cannot be searched; an ordinary one has none."""
        return ()

    @property
    def shard_count(self) -> int:
        """Number of the index's shards; 0: it is an ordinary one."""
        return 0
