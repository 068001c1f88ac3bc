"""Labels: searching among all of them, and the photos of one."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Literal

from fastapi import APIRouter, Request, Response

from delg.errors import DelgError
from index.collection.label_index import Order
from index.collection.label_review import LabelReview
from index.serve.pagination import PageNumber, Pagination
from index.serve.service import Service
from index.serve.uploads import NotFoundError
from index.serve.views.search import is_fragment

if TYPE_CHECKING:
    from index.serve.pages import Pages

LABELS_PER_PAGE, PHOTOS_PER_PAGE = 60, 48
# Labels whose reviews are kept.
_MAX_REVIEWS = 200
LabelView = Literal["typical", "different", "added", "suspicious"]


def make_router(pages: Pages) -> APIRouter:
    """``/labels``, ``/label`` and what lies below."""
    router = APIRouter()
    service = pages.service
    reviews = _Reviews(service)

    @router.get("/labels")
    def labels(
        request: Request, q: str = "", order: Order = "count", page: PageNumber = 1
    ) -> Response:
        index = service.remembered.labels()
        listing = index.search(q, order, LABELS_PER_PAGE, (page - 1) * LABELS_PER_PAGE)
        with service.shared.reading() as images:
            rows = [row for _, _, covers in listing.labels for row in covers]
            covers = {image.row: image for image in images.by_rows(rows)}
        filters = {"q": q, "order": "" if order == "count" else order}
        return pages.render(
            request, "labels_fragment.html" if is_fragment(request) else "labels.html",
            listing=listing, covers=covers, q=q, order=order, all_labels=len(index),
            pagination=Pagination("/labels", filters, page, listing.total, LABELS_PER_PAGE),
        )  # fmt: skip

    @router.get("/label")
    def label(
        request: Request, name: str, sort: LabelView = "typical", page: PageNumber = 1
    ) -> Response:
        rows = service.remembered.labels().rows(name)
        if not len(rows):
            raise NotFoundError(f"no photo has the label {name!r}")
        if sort == "suspicious":
            return pages.render(request, "label.html", name=name, sort=sort, photos=len(rows))
        first = (page - 1) * PHOTOS_PER_PAGE
        with service.shared.reading() as images:
            ordered = rows.tolist()
            if sort != "added":
                ordered, _ = images.typicality(ordered)
                ordered = ordered[::-1] if sort == "different" else ordered
            shown = images.by_rows(ordered[first : first + PHOTOS_PER_PAGE])
        pagination = Pagination(
            "/label", {"name": name, "sort": sort}, page, len(ordered), PHOTOS_PER_PAGE
        )
        is_more = is_fragment(request)
        return pages.render(
            request, "photos_fragment.html" if is_more else "label.html",
            name=name, images=shown, sort=sort, photos=len(rows), ranked=len(ordered),
            pagination=pagination,
        )  # fmt: skip

    @router.get("/label/review")
    def review(request: Request, name: str) -> Response:
        label_review = reviews.get(name)
        return pages.render(request, "label_review_fragment.html", name=name, review=label_review)

    return router


class _Reviews:
    """Reviews of labels, made one at a time in the background, and kept while the index stays."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._done: OrderedDict[tuple[str, object], LabelReview | str] = OrderedDict()
        self._running = False

    def get(self, name: str) -> LabelReview | str | None:
        """The review; the reason why there is none; or None while it is made.

        Raises:
            NotFoundError: there is no such label.
        """
        rows = self._service.remembered.labels().rows(name)
        if not len(rows):
            raise NotFoundError(f"no photo has the label {name!r}")
        key = name, self._service.shared.version
        with self._lock:
            if key not in self._done and not self._running:
                self._running = True
                threading.Thread(
                    target=self._run, args=(key, rows.tolist()), daemon=True, name="review"
                ).start()
            return self._done.get(key)

    def _run(self, key: tuple[str, object], rows: list[int]) -> None:
        result: LabelReview | str = "the review failed; see the server's log"
        try:
            with self._service.shared.reading() as images:
                result = images.review_label(key[0], rows)
        except DelgError as error:
            result = str(error)
        finally:
            with self._lock:
                self._running = False
                self._done[key] = result
                while len(self._done) > _MAX_REVIEWS:
                    self._done.popitem(last=False)
