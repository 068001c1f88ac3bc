"""The model that an index was made by: recorded by name and fingerprint, loaded when needed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from delg.errors import DelgError, ModelError, UsageError
from delg.extraction.extractor import Extractor
from delg.extraction.sift import DIM as SIFT_DIM
from delg.paths import exists
from delg.settings import ModelSettings
from delg.zoo.registry import ModelFiles, find_model, load_model
from delg.zoo.trust import is_trusted, trust_if_possible, was_trusted
from index.feature_spec import FeatureSpec
from index.settings import IndexSettings
from index.storage.codebook import read_codebook
from index.storage.index_record import IndexRecord
from index.storage.opened_store import CODEBOOK
from index.storage.product_quantizer import ProductQuantizer
from index.storage.store import Store, codebook_meta
from index.storage.vocabulary import VOCABULARY_DIGEST, find_vocabulary
from index.verification.calibration import DEFAULT_CALIBRATION, Calibration, read_calibration

logger = logging.getLogger(__name__)


def record_model(
    model: str,
    weights: str | Path | None,
    settings: IndexSettings,
    fingerprint: str | None = None,
) -> tuple[dict[str, str], IndexSettings]:
    """What the catalog of a new index records of its model, and the settings for that model.

    Whoever calls it has named the model, so that the index may use it from now on.

    Args:
        model: a shipped model's name or a model's folder.
        weights: another weight file for that model.
        fingerprint: chooses between a quantised model and its float32 weights; see
            :func:`delg.zoo.registry.find_model`.

    Raises:
        ModelError: there is no such model, or it has no weights.
    """
    files = find_model(model, weights, settings.extraction, fingerprint)
    if not files.has_weights:
        raise ModelError(files.missing())
    trust_if_possible(model, weights)
    is_shipped = model == files.settings.name
    meta = {
        "model": model if is_shipped else str(Path(model).absolute()),
        "weights": str(Path(weights).absolute()) if weights else "",
        "fingerprint": files.fingerprint,
        **_spec_of(files.settings).as_meta(),
    }
    if settings.store.local_codec == "compact":
        codebook = _codebook_of(files)
        if codebook is not None:
            meta |= codebook_meta(codebook)
        else:
            logger.info(
                "note: %s has no codebook, so its local features take several times the space; "
                "to learn one: delg model codebook %s --photos DIR (then delg index compact)",
                files.settings.name, model,
            )  # fmt: skip
    vocabulary = find_vocabulary(meta["model"], meta["weights"], int(meta["local_dim"]))
    if vocabulary is not None:
        meta[VOCABULARY_DIGEST] = vocabulary.digest
    elif not files.settings.has_global:
        logger.info(
            "note: %s has no visual vocabulary, so an aggregate of its local features stands for a "
            "global descriptor; to learn one: delg model vocabulary %s --photos DIR (then delg "
            "index compact)",
            files.settings.name, model,
        )  # fmt: skip
    return meta, settings.of_model(files.settings)


def _codebook_of(files: ModelFiles) -> ProductQuantizer | None:
    if not exists(files.codebook):
        return None
    return read_codebook(files.codebook, _spec_of(files.settings).local_dim)


def _spec_of(settings: ModelSettings) -> FeatureSpec:
    local = settings.local_head
    local_dim = SIFT_DIM if local.kind == "sift" else local.dim
    return FeatureSpec(
        settings.name, settings.global_dim, local_dim, aggregated=not settings.has_global
    )


def record_spec(spec: FeatureSpec, settings: IndexSettings) -> tuple[dict[str, str], IndexSettings]:
    """The same for an index of features that are made elsewhere."""
    meta = {"model": "", "weights": "", "fingerprint": spec.fingerprint, **spec.as_meta()}
    return meta, settings.of_model(None)


class IndexModel:
    """The model that an index was made by.

    Args:
        record: what the index records of itself.
        named: the model's name or folder as the caller gives it, in place of what the index
            records; it need not be trusted.
    """

    def __init__(self, record: IndexRecord, named: str | None = None) -> None:
        self.record, self._named = record, named
        self._extractor: Extractor | None = None
        self._load: Callable[[], Extractor] | None = None

    @property
    def name(self) -> str:
        """For people."""
        return self.record.catalog.meta("model_name")

    @property
    def location(self) -> str:
        """A shipped model's name or a model's folder; empty for features made elsewhere."""
        recorded = self.record.catalog.meta("model")
        return recorded and (self._named or recorded)

    @property
    def weights(self) -> str | None:
        """Another weight file for that model."""
        return None if self._named else self.record.catalog.meta("weights") or None

    @property
    def fingerprint(self) -> str:
        """Of the model that made the features."""
        return self.record.catalog.meta("fingerprint")

    @property
    def extractor(self) -> Extractor:
        """The model; loaded when first needed.

        Raises:
            ModelError: it is gone, its fingerprint is no longer that of the stored features, or
                the index names one that its user does not trust.
        """
        if self._extractor is None and self._load is not None:
            self.use(self._load())
        if self._extractor is None:
            if not self.location:
                raise ModelError(
                    f"{self.record.folder} holds features of {self.name!r}, made elsewhere: "
                    "it can be searched with features of that kind, not with photos"
                )
            settings = self.record.settings
            self._find()
            self.use(
                load_model(
                    self.location,
                    self.weights,
                    settings.extraction,
                    settings.images,
                    # Indexes of before have the float32 weights of a model that is quantised now.
                    self.fingerprint,
                )
            )
        assert self._extractor is not None
        return self._extractor

    @property
    def pyramid(self) -> tuple[float, ...]:
        """Scales of the levels that local features come from; empty where the model is not here or
        its features have other scales."""
        if not self.location:
            return ()
        try:
            settings = self._find().settings
        except DelgError:
            return ()
        return () if settings.local_head.kind == "sift" else settings.extraction.scales

    def _find(self) -> ModelFiles:
        """The model's files.

        Raises:
            ModelError: it is gone, or the index names one that its user does not trust.
        """
        location, weights = self.location, self.weights
        files = find_model(location, weights, self.record.settings.extraction)
        if self._named is None and not is_trusted(location, weights, files):
            if was_trusted(location, weights) and files.has_weights:
                self._check_same(files.settings.name, files.fingerprint)
            named = location + (f" with the weights {weights}" if weights else "")
            words = location if not weights else f"{location} --weights {weights}"
            raise ModelError(
                f"{self.record.folder} names the model {named}, which was not used here before or "
                "has changed since. A model can run code, so that an index cannot choose one by "
                f"itself: if you trust it, allow it with delg model trust {words}, or name it "
                "in the command (--model)"
            )
        return files

    @cached_property
    def calibration(self) -> Calibration:
        """What evidence is worth with the model's features; for models that are gone or have no
        calibration, and for features made elsewhere, :data:`DEFAULT_CALIBRATION`.

        Raises:
            ModelError: the model's calibration is damaged.
        """
        try:
            files = self._find() if self.location else None
        except DelgError:
            return DEFAULT_CALIBRATION
        return read_calibration(files.calibration) if files else DEFAULT_CALIBRATION

    @cached_property
    def texture_score(self) -> float:
        """Score below which a local feature lies on a plain surface; 0 where the model is gone, or
        does not tell, or scored differently when the index was made."""
        if not self.location:
            return 0.0
        try:
            self._find()
            extraction = self.record.settings.extraction
            files = find_model(self.location, self.weights, extraction, self.fingerprint)
        except DelgError:
            return 0.0
        return files.settings.texture_score if files.fingerprint == self.fingerprint else 0.0

    def find_codebook(self, store: Store) -> ProductQuantizer | None:
        """The codebook that the index records, or else the model's; None if that has none or is
        gone, or the index keeps descriptors component by component.

        Args:
            store: of the index.

        Raises:
            ModelError: the codebook is damaged.
        """
        if store.settings.store.local_codec != "compact":
            return None
        if store.catalog.meta(CODEBOOK):
            return store.codebook
        try:
            files = self._find() if self.location else None
        except DelgError:
            return None  # What is stored can be maintained without the model.
        return _codebook_of(files) if files else None

    def adopt_codebook_and_vocabulary(self, store: Store) -> None:
        """Record the model's codebook in an index that has none, as it was made by an earlier
        version or when the model had none, and the model's present vocabulary; under the lock.

        Args:
            store: of the index.

        Raises:
            ModelError: one of them is damaged.
        """
        if not store.catalog.meta(CODEBOOK):
            codebook = self.find_codebook(store)
            if codebook is not None:
                store.set_codebook(codebook)
        vocabulary = store.catalog.find_vocabulary()
        known = store.catalog.meta(VOCABULARY_DIGEST)
        if vocabulary is not None and vocabulary.digest != known:
            store.set_vocabulary(vocabulary)

    def use(self, extractor: Extractor) -> None:
        """Share a model that is loaded already.

        Raises:
            ModelError: the index was made by another.
        """
        self.check_fingerprint(extractor)
        self._extractor = extractor

    def named_for_others(self) -> str | None:
        """What processes elsewhere open the index by: its model, which its user trusts here; None:
        what the index records.

        Raises:
            ModelError: it is gone, or its user does not trust it.
        """
        self._find()
        return None if self.weights else self.location

    def share(self, load: Callable[[], Extractor]) -> None:
        """Take the model from somebody who has it or can load it, when it is first needed."""
        self._load = load

    def check_fingerprint(self, extractor: Extractor) -> None:
        """Make sure that the model's features can be compared with those stored.

        Raises:
            ModelError: the index was made by another.
        """
        self._check_same(extractor.name, extractor.fingerprint)

    def _check_same(self, name: str, fingerprint: str) -> None:
        if not self.is_comparable(fingerprint):
            raise ModelError(
                f"{self.record.folder} was made by model {self.name} {self.fingerprint}, but "
                f"{name} here is {fingerprint}: use that model, or build a new index"
            )

    def is_comparable(self, fingerprint: str) -> bool:
        """Whether the model of that fingerprint makes features that can be compared with those
        stored: it is the index's own, or what has become of it."""
        if fingerprint == self.fingerprint or not self.location:
            return fingerprint == self.fingerprint
        extraction = self.record.settings.extraction
        try:
            files = find_model(self.location, self.weights, extraction, self.fingerprint)
            return {fingerprint, self.fingerprint} <= files.comparable
        except DelgError:
            return False

    def check_name(self, model: str) -> None:
        """Make sure that the index was made by the model of that name or folder.

        Raises:
            UsageError: another made it.
            ModelError: there is no such model.
        """
        extraction = self.record.settings.extraction
        files = find_model(model, None, extraction, self.fingerprint)
        if self.fingerprint not in files.comparable:
            raise UsageError(
                f"{self.record.folder} was made by model {self.name} {self.fingerprint}; {model} "
                f"is {files.fingerprint}: leave --model out, or choose another --index"
            )
