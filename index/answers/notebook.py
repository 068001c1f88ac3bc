"""Results and indexes in notebooks: as HTML with thumbnails, as tables of pandas, as a figure."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from delg.errors import UsageError
from delg.images.decode import ImageError, Source, decode
from index.results import Hit, QueryResult, as_percent

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Hits that are shown with a thumbnail, and its longest side in pixels.
_MAX_HITS, _SIDE = 10, 128
_COLUMNS = (
    "rank", "id", "label", "probability", "verified", "inliers", "similarity", "score", "mark",
    "path",
)  # fmt: skip


def result_html(result: QueryResult) -> str:
    """A query's answer and its first hits, with thumbnails of those that can be read."""
    answer = result.answer()
    rows = "".join(_hit_html(hit) for hit in result.hits[:_MAX_HITS])
    more = len(result) - _MAX_HITS
    rest = f"<p>… and {more} more</p>" if more > 0 else ""
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in result.notes)
    return f"<p><b>{html.escape(answer.text)}</b></p>{notes}<table>{_HEADER}{rows}</table>{rest}"


_HEADER = "<tr><th></th><th>id</th><th>label</th><th>probability</th><th>inliers</th></tr>"


def _hit_html(hit: Hit) -> str:
    verified = " ✓" if hit.verified else ""
    cells = [
        _thumbnail(hit.path), html.escape(hit.id), html.escape(hit.label or ""),
        html.escape(as_percent(hit.probability)) + verified, str(hit.inliers),
    ]  # fmt: skip
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _thumbnail(path: str) -> str:
    from PIL import Image

    try:
        picture = Image.fromarray(decode(path))
    except ImageError:
        return ""
    picture.thumbnail((_SIDE, _SIDE))
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=80)
    text = base64.b64encode(data.getvalue()).decode()
    return f'<img alt="" src="data:image/jpeg;base64,{text}">'


def hits_frame(hits: Sequence[Hit]) -> pd.DataFrame:
    """A row per hit, with its metadata as further columns.

    Raises:
        UsageError: pandas is not installed.
    """
    rows = [
        {
            **{f"metadata.{key}" if key in _COLUMNS else key: v for key, v in hit.metadata.items()},
            **{name: getattr(hit, name) for name in _COLUMNS},
        }
        for hit in hits
    ]
    metadata = dict.fromkeys(key for row in rows for key in row if key not in _COLUMNS)
    return _frame(rows, [*_COLUMNS, *metadata])


def images_frame(images: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A row per image of an index, with its metadata as further columns; see :func:`hits_frame`.

    Args:
        images: what is known of each, by name.
    """
    columns = ["id", "label", "path", "width", "height", "state", "reason"]
    rows = [
        {
            **{
                f"metadata.{key}" if key in columns else key: value
                for key, value in image["metadata"].items()
            },
            **{name: image[name] for name in columns},
        }
        for image in images
    ]
    metadata = dict.fromkeys(key for row in rows for key in row if key not in columns)
    return _frame(rows, [*columns, *metadata])


def _frame(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    try:
        import pandas as pd
    except ImportError:
        raise UsageError("needs pandas: pip install 'delg-retrieval[notebook]'") from None
    return pd.DataFrame(list(rows), columns=list(columns))


def plot_result(result: QueryResult, query: Source | None, hits: int) -> Figure:
    """A figure of the query and its first hits, with the matched points.

    Args:
        query: the photo; None: only the hits are shown.
        hits: shown at most.
    """
    from matplotlib.figure import Figure

    shown = result.hits[:hits]
    photos = ([] if query is None else [query]) + [hit.path for hit in shown]
    figure = Figure(figsize=(3 * max(len(photos), 1), 3.6))
    axes = figure.subplots(1, max(len(photos), 1), squeeze=False)[0]
    for ax in axes:
        ax.set_axis_off()
    if query is not None:
        axes[0].imshow(decode(query))
        axes[0].set_title("query")
    for ax, hit in zip(axes[len(photos) - len(shown) :], shown, strict=False):
        verified = ", verified" if hit.verified else ""
        ax.set_title(f"{hit.rank}. {hit.label or hit.id}\n{hit.percent}{verified}", fontsize=9)
        try:
            ax.imshow(decode(hit.path))
        except ImageError:
            continue
        ax.plot(*hit.points.T, ".", color="tab:green", markersize=3)
    figure.tight_layout()
    return figure
