"""The command line: ``delg …``.

Every command imports what it needs when it runs, so that ``--help`` answers at once and commands
that only look into an index do not load TensorFlow.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delg.console import plural, progress, put, report_failures, say, table
from delg.errors import DelgError, UsageError
from delg.values import Box, Failure

if TYPE_CHECKING:
    from delg.values import ImageFeatures
    from index.hits import Hit, QueryResult
    from index.image_index import ImageIndex
    from index.ingest import AddReport

FAILED, WRONG_USE, PARTLY = 1, 2, 3
DEFAULT_MODEL = "delg-lite"

app = typer.Typer(
    help="Find the photos of that very thing, with the matching points as proof.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
index_app = typer.Typer(help="Build and look after an index.", no_args_is_help=True)
model_app = typer.Typer(help="The models there are.", no_args_is_help=True)
eval_app = typer.Typer(help="Measure the engine.", no_args_is_help=True)
app.add_typer(index_app, name="index")
app.add_typer(eval_app, name="eval")
app.add_typer(model_app, name="model")


class Orientations(str, Enum):
    """How the query may be turned."""

    auto = "auto"
    one = "1"
    four = "4"


Sources = Annotated[list[Path], typer.Argument(help="Folders (searched recursively) and photos.")]
IndexDir = Annotated[Path, typer.Option("--index", help="Folder of the index.")]
Model = Annotated[str, typer.Option(help="A shipped model, or a model's folder.")]
Config = Annotated[Path | None, typer.Option(help="YAML that overrides settings.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Labels = Annotated[str | None, typer.Option(help="'folders', or a CSV with id,label[,…].")]
Prefix = Annotated[str, typer.Option(help="Put before every id, to keep sources apart.")]


def main() -> None:
    """Run the command line; people's mistakes end in one clear line and an exit code."""
    try:
        app()
    except UsageError as error:
        say(f"error: {error}")
        sys.exit(WRONG_USE)
    except DelgError as error:
        say(f"error: {error}")
        sys.exit(FAILED)
    except KeyboardInterrupt:
        say("interrupted; what was committed is kept, and the same command continues")
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read the output has seen enough.
        sys.stderr.close()
        sys.exit(FAILED)


def _open(index: Path, config: Path | None = None) -> ImageIndex:
    from index import ImageIndex

    images = ImageIndex.open(index)
    if config is not None:
        from delg.settings import read_yaml

        images.configure(read_yaml(config), str(config))
    return images


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where photos, index and page go.")] = Path(
        "demo-output"
    ),
) -> None:
    """Index a small gallery of packaged photos, query it, and write a page to open."""
    from index.demo import run_demo

    raise typer.Exit(run_demo(out))


@index_app.command("build")
def index_build(
    sources: Sources,
    index: IndexDir,
    model: Model | None = None,
    config: Config = None,
    labels: Labels = None,
    prefix: Prefix = "",
    as_json: AsJson = False,
) -> None:
    """Make an index of photos, or bring an existing one up to date."""
    from delg.settings import parse, read_yaml
    from index import ImageIndex, IndexSettings

    overrides = {} if config is None else read_yaml(config)
    missing = [str(source) for source in sources if not source.exists()]
    if missing:
        raise UsageError(f"{', '.join(missing)}: no such folder or file")
    if ImageIndex.exists(index):
        images = ImageIndex.open(index)
        _same_model(images, model)
        if overrides:
            images.configure(overrides, str(config), record=True)
    else:
        settings = parse(IndexSettings, overrides, str(config))
        images = ImageIndex.create(index, model or DEFAULT_MODEL, settings=settings)
    _add(images, sources, labels, prefix, as_json)


def _same_model(images: ImageIndex, model: str | None) -> None:
    from delg.registry import find_model

    if model is None:
        return
    asked = find_model(model, extraction=images.settings.extraction).fingerprint
    if asked != images.fingerprint:
        raise UsageError(
            f"{images.path} was made by model {images.info()['model']} {images.fingerprint}; "
            f"{model} is {asked}: leave --model out, or build another index"
        )


@index_app.command("add")
def index_add(
    sources: Sources,
    index: IndexDir,
    labels: Labels = None,
    prefix: Prefix = "",
    as_json: AsJson = False,
) -> None:
    """Add new and changed photos to an index."""
    _add(_open(index), sources, labels, prefix, as_json)


def _add(
    images: ImageIndex, sources: list[Path], labels: str | None, prefix: str, as_json: bool
) -> None:
    with progress("photos") as report:
        done = images.add(sources, labels, prefix, report)
    _print_report(images, done, as_json)
    if done.failed:
        raise typer.Exit(PARTLY)


def _print_report(images: ImageIndex, done: AddReport, as_json: bool) -> None:
    if as_json:
        failed = [{"path": one.path, "reason": one.reason} for one in done.failed]
        put(json.dumps({**vars(done), "failed": failed, "images": len(images)}))
        return
    report_failures(done.failed)
    for image_id in done.vanished:
        say(f"vanished: {image_id} (still in the index; delg index remove --vanished takes it out)")
    for image_id in done.unknown_labels:
        say(f"label file: no photo has the id {image_id}")
    put(
        f"{plural(done.added, 'photo')} added, {done.updated:,} updated, "
        f"{done.unchanged:,} unchanged, {len(done.failed):,} failed, "
        f"{len(done.vanished):,} vanished; {plural(len(images), 'photo')} in {images.path} "
        f"({done.seconds:.1f} s)"
    )


@index_app.command("remove")
def index_remove(
    index: IndexDir,
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of images.")] = None,
    vanished: Annotated[
        bool, typer.Option("--vanished", help="All images whose file is gone.")
    ] = False,
) -> None:
    """Take images out of an index."""
    images = _open(index)
    wanted = [*(ids or []), *(images.vanished() if vanished else [])]
    if not wanted and not vanished:
        raise UsageError("name the ids to remove, or use --vanished")
    count = images.remove(wanted)
    put(f"{plural(count, 'image')} removed; {plural(len(images), 'photo')} left in {index}")


@index_app.command("info")
def index_info(
    index: IndexDir,
    as_json: AsJson = False,
    failures: Annotated[
        bool, typer.Option("--failures", help="List the photos that failed, with reasons.")
    ] = False,
) -> None:
    """What an index holds."""
    images = _open(index)
    facts = images.info()
    if failures:
        facts["failures"] = images.failures()
    if as_json:
        put(json.dumps(facts))
        return
    settings, failed = facts.pop("settings"), facts.pop("failures", {})
    table(["", ""], [(key.replace("_", " "), _shown(value)) for key, value in facts.items()])
    changed = _changes(settings)
    put(f"settings changed from their defaults: {json.dumps(changed) if changed else 'none'}")
    for image_id, reason in failed.items():
        put(f"failed: {image_id}: {reason}")


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _changes(settings: dict[str, Any]) -> dict[str, Any]:
    from index import IndexSettings

    defaults = json.loads(IndexSettings().model_dump_json())
    changed: dict[str, Any] = {}
    for section, values in settings.items():
        usual = defaults[section]
        if values != usual:
            changed[section] = (
                {key: value for key, value in values.items() if value != usual[key]}
                if isinstance(values, dict) and isinstance(usual, dict)
                else values
            )
    return changed


@index_app.command("check")
def index_check(index: IndexDir, as_json: AsJson = False) -> None:
    """Read everything in an index and say what is damaged."""
    found = _open(index).check()
    if as_json:
        put(json.dumps(vars(found)))
    else:
        for note in found.notes:
            say(f"note: {note}")
        for problem in found.problems:
            put(f"problem: {problem}")
        if not found.problems:
            put(f"{index}: sound")
    if found.problems:
        raise typer.Exit(FAILED)


@index_app.command("compact")
def index_compact(index: IndexDir, config: Config = None) -> None:
    """Free the space of removed images, and rebuild the shortlist as the settings ask."""
    images = _open(index)
    if config is not None:
        from delg.settings import read_yaml

        images.configure(read_yaml(config), str(config), record=True)
    put(f"{images.compact():,} bytes freed; the shortlist is {images.info()['shortlist']}")


def _box(text: str | None) -> Box | None:
    if text is None:
        return None
    try:
        x, y, width, height = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--box {text}: expected X,Y,WIDTH,HEIGHT in pixels") from None
    if width <= 0 or height <= 0:
        raise UsageError(f"--box {text}: width and height must be positive")
    return x, y, width, height


@app.command()
def query(
    photos: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="Photos to look for.")],
    index: IndexDir,
    k: Annotated[int, typer.Option("-k", min=1, help="Hits wanted.")] = 10,
    rerank: Annotated[
        int | None, typer.Option(min=0, help="Candidates to verify; 0 is global-only.")
    ] = None,
    box: Annotated[str | None, typer.Option(help="Look only at X,Y,WIDTH,HEIGHT.")] = None,
    orientations: Annotated[
        Orientations, typer.Option(help="auto turns the query only if nothing is verified.")
    ] = Orientations.auto,
    config: Config = None,
    as_json: AsJson = False,
    draw: Annotated[Path | None, typer.Option(help="Folder for drawings of the matches.")] = None,
    html: Annotated[Path | None, typer.Option(help="One page with hits and matches.")] = None,
) -> None:
    """Find the photos of the same thing."""
    from delg.decode import ImageError

    images = _open(index, config)
    region = _box(box)
    found: list[tuple[Path, QueryResult]] = []
    failed: list[Failure] = []
    for photo in photos:
        try:
            result = images.query(photo, k, rerank, region, orientations.value)
        except ImageError as error:
            failed.append(Failure(str(photo), str(error)))
            if as_json:
                put(json.dumps({"query": str(photo), "error": str(error), "hits": []}))
            continue
        found.append((photo, result))
        _print_hits(photo, index, result, as_json)
        if draw is not None:
            _draw_hits(draw, photo, result)
    if html is not None and found:
        _write_page(html, found)
    report_failures(failed)
    if failed:
        raise typer.Exit(PARTLY if found else FAILED)


def _print_hits(photo: Path, index: Path, result: QueryResult, as_json: bool) -> None:
    if as_json:
        values = {
            "query": str(photo),
            "index": str(index),
            "model": result.model,
            "orientation": result.orientation,
            "timing_ms": result.timing_ms,
            "hits": [hit.as_json() for hit in result],
        }
        put(json.dumps(values))
        return
    turned = f", turned by {result.orientation}°" if result.orientation else ""
    total = sum(result.timing_ms.values())
    put(f"{photo}{turned} ({total:.0f} ms)")
    table(
        ["rank", "score", "similarity", "inliers", "", "id", "label"],
        [_hit_row(hit) for hit in result],
    )


def _hit_row(hit: Hit) -> list[str]:
    verified = "verified" if hit.verified else ""
    return [
        str(hit.rank), f"{hit.score:.3f}", f"{hit.similarity:.3f}", str(hit.inliers), verified,
        hit.id, hit.label or "",
    ]  # fmt: skip


def _draw_hits(folder: Path, photo: Path, result: QueryResult) -> None:
    from delg.decode import ImageError, decode
    from index.drawing import draw_matches, save_drawing

    pixels = decode(photo)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DelgError(f"{folder}: cannot be made: {error.strerror}") from None
    for hit in result:
        if not hit.inliers:
            continue
        try:
            other = decode(hit.path)
        except ImageError as error:
            say(f"not drawn: {hit.path}: {error}")
            continue
        name = f"{photo.stem}-{hit.rank:02d}-{Path(hit.id).stem}.jpg"
        save_drawing(
            folder / name,
            draw_matches(pixels, other, hit.query_points, hit.points, box=result.box),
        )


def _write_page(path: Path, found: Iterable[tuple[Path, QueryResult]]) -> None:
    from delg.decode import decode
    from index.page import write_page

    write_page(path, ((str(photo), decode(photo), result) for photo, result in found))
    say(f"page written: {path}")


@app.command()
def match(
    a: Annotated[Path, typer.Argument(metavar="A")],
    b: Annotated[Path, typer.Argument(metavar="B")],
    model: Model = DEFAULT_MODEL,
    config: Config = None,
    as_json: AsJson = False,
    draw: Annotated[Path | None, typer.Option(help="Picture of the matches to write.")] = None,
) -> None:
    """Match two photos and verify the matches."""
    from delg.decode import ImageError, decode
    from delg.registry import load_model
    from delg.settings import parse, read_yaml
    from index import IndexSettings
    from index.pair import match_photos

    settings = parse(IndexSettings, read_yaml(config) if config else {}, str(config))
    extractor = load_model(model, extraction=settings.extraction, images=settings.images)
    pixels = []
    for photo in (a, b):
        try:
            pixels.append(decode(photo, settings.images))
        except ImageError as error:
            raise DelgError(f"{photo}: {error}") from None
    other = extractor.extract(pixels[1])
    sighting = match_photos(extractor, pixels[0], other, settings)
    found, seen = sighting.verification, (sighting.query, other)
    similarity = float(seen[0].global_descriptor @ other.global_descriptor)
    points = [seen[i].local.keypoints[found.matches[:, i]] for i in (0, 1)]
    if draw is not None:
        from index.drawing import draw_matches, save_drawing

        save_drawing(draw, draw_matches(pixels[0], pixels[1], points[0], points[1]))
    if as_json:
        values = {
            "a": str(a), "b": str(b), "model": model, "similarity": round(similarity, 6),
            "inliers": found.inliers, "verified": found.verified,
            "transform": None if found.transform is None else found.transform.tolist(),
            "matches": [
                {"a": one.tolist(), "b": other.tolist()}
                for one, other in zip(points[0], points[1], strict=True)
            ],
        }  # fmt: skip
        put(json.dumps(values))
        return
    verdict = "the same thing, verified" if found.verified else "not verified"
    put(f"{verdict}: {plural(found.inliers, 'inlier')}, similarity {similarity:.3f}")


@app.command()
def extract(
    sources: Sources,
    out: Annotated[Path, typer.Option(help="HDF5 file to write.")],
    model: Model = DEFAULT_MODEL,
    config: Config = None,
) -> None:
    """Extract features into one HDF5 file, a group a photo."""
    from delg.registry import load_model
    from delg.scan import scan
    from delg.settings import ExtractionSettings, read_settings
    from index.feature_file import write_features

    photos, failed = scan(sources)
    override = read_settings(ExtractionSettings, config) if config else None
    extractor = load_model(model, extraction=override)

    def features() -> Iterator[tuple[str, ImageFeatures]]:
        with progress("photos") as report:
            results = extractor.extract_many([photo.path for photo in photos])
            for number, (photo, result) in enumerate(zip(photos, results, strict=True), 1):
                if isinstance(result, Failure):
                    failed.append(result)
                else:
                    yield photo.id, result
                report(number, len(photos), len(failed))

    count = write_features(out, features(), extractor.name, extractor.fingerprint)
    report_failures(failed)
    put(f"features of {plural(count, 'photo')} in {out}")
    if failed:
        raise typer.Exit(PARTLY if count else FAILED)


@model_app.command("list")
def model_list(as_json: AsJson = False) -> None:
    """The models that ship with the package."""
    from delg.registry import find_model, shipped_models

    found = [find_model(name) for name in shipped_models()]
    if as_json:
        for one in found:
            put(
                json.dumps(
                    {
                        "name": one.settings.name,
                        "description": one.settings.description,
                        "weights": one.has_weights,
                    }
                )
            )
        return
    rows = [
        (
            one.settings.name,
            "ready" if one.has_weights else "needs weights",
            one.settings.description,
        )
        for one in found
    ]
    table(["name", "", ""], rows)


@model_app.command("info")
def model_info(
    model: Annotated[str, typer.Argument(help="A name or a model's folder.")] = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """A model's settings, weights and fingerprint."""
    from delg.registry import find_model

    found = find_model(model)
    facts: dict[str, Any] = {"settings": json.loads(found.settings.model_dump_json())}
    if found.has_weights:
        size = found.weights.stat().st_size
        facts = {
            "fingerprint": found.fingerprint,
            "weights": str(found.weights),
            "bytes": size,
            **facts,
        }
    if as_json:
        put(json.dumps(facts))
        return
    import yaml

    put(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True).rstrip())


@eval_app.command("speed")
def eval_speed(
    runs: Annotated[int, typer.Option(min=1, help="Runs of each stage.")] = 9,
    as_json: AsJson = False,
) -> None:
    """How long each stage takes on this machine."""
    from eval.speed import report

    found = report(runs)
    if as_json:
        put(json.dumps(found))
        return
    put(found["machine"])
    table(
        ["stage", "median ms", "fastest", "slowest"],
        [
            [
                row["name"],
                *(f"{row[key]:.2f}" for key in ("median_ms", "fastest_ms", "slowest_ms")),
            ]
            for row in found["rows"]
        ],
    )


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Versions, hardware, and where each package was imported from."""
    from delg.doctor import examine, problems

    found = examine()
    if as_json:
        put(json.dumps(found))
    else:
        for key in ("system", "cpu", "cores", "memory_gib", "gpus"):
            put(f"{key.replace('_', ' ')}: {found[key]}")
        packages = {"python": found["python"], **found["packages"], **found["optional"]}
        table(
            ["package", "version", "from"],
            [
                (name, facts.get("version", "-"), facts.get("from") or facts["error"])
                for name, facts in packages.items()
            ],
        )
        put(f"model {found['model']['name']}: {found['model'].get('fingerprint', 'broken')}")
    for problem in problems(found):
        say(f"problem: {problem}")
    if problems(found):
        raise typer.Exit(FAILED)


if __name__ == "__main__":
    main()
