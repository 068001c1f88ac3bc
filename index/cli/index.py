"""``delg index …``: build and maintain an index."""

from __future__ import annotations

import json
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delg.cli.console import plural, print_json, print_result, progress, report_failures, table
from delg.cli.options import FAILED, PARTLY, AsJson, Config, Sources, group
from delg.errors import UsageError
from delg.paths import as_written, exists
from delg.remote_path import LIST_SIGN, Location, RemotePath, as_location
from index.cli.options import (
    DefaultExcludes,
    Exclude,
    IndexDir,
    Labels,
    NamedModel,
    Prefix,
    Ray,
    Reread,
    no_blank_index,
    open_index,
    read_config,
)
from index.cli.sharding import Replicas, Shards

if TYPE_CHECKING:
    from index.image_index import ImageIndex
    from index.photos.ingest import AddReport
    from index.settings import IndexSettings

log = logging.getLogger(__name__)
app = group("Build and maintain an index.")


@app.command("build")
def index_build(
    sources: Sources,
    index: IndexDir,
    model: Annotated[
        str | None,
        typer.Option(help="Model of a new index: a name or a folder (default: delg-lite)."),
    ] = None,
    config: Config = None,
    labels: Labels = None,
    prefix: Prefix = "",
    exclude: Exclude = None,
    default_excludes: DefaultExcludes = True,
    reread: Reread = False,
    shards: Shards = None,
    replicas: Replicas = 1,
    ray: Ray = None,
    as_json: AsJson = False,
) -> None:
    """Build an index of photos, or bring an existing one up to date."""
    from delg.settings import parse

    overrides = read_config(config)
    from index import ImageIndex, IndexSettings
    from index.labels import read_labels

    missing = [str(source) for source in sources if not _is_there(source)]
    if missing:
        raise UsageError(f"{', '.join(missing)}: no such folder or file")
    options: dict[str, Any] = {"labels": read_labels(labels, prefix), "prefix": prefix}
    options |= {"exclude": exclude or (), "reread": reread}
    options["default_excludes"] = default_excludes
    is_new = not ImageIndex.exists(index)
    settings = parse(IndexSettings, overrides, str(config)) if is_new else None
    with (
        no_blank_index(index) if is_new else nullcontext(),
        _open_or_create(index, model, settings, shards, replicas, ray) as images,
    ):
        if overrides:
            # Of a new index too: another process may have been first, with other settings.
            images.configure(overrides, str(config), record=True)
        _add(images, sources, {**options, "verify_stored": not is_new}, as_json)


def _is_there(source: Location) -> bool:
    """Whether a source can be looked at; of URLs the scan says so."""
    is_list = str(source).startswith(LIST_SIGN)
    return isinstance(source, RemotePath) or is_list or exists(as_written(source))


def _open_or_create(
    index: Path,
    model: str | None,
    settings: IndexSettings | None,
    shards: int | None,
    replicas: int,
    ray: str | None,
) -> ImageIndex:
    """The index to build; a new one is sharded if ``shards`` is given."""
    from index import ImageIndex

    if shards is None:
        if replicas > 1:
            raise UsageError("--replicas needs --shards")
        if ray is None:
            return ImageIndex.open_or_create(index, model, settings=settings)
        if not ImageIndex.exists(index):
            raise UsageError("--ray needs --shards, the number of parts that are built at once")
        return ImageIndex.open(index, model, ray, searched=False)
    from delg.zoo.registry import DEFAULT_MODEL
    from index.sharding.sharded_index import ShardedIndex

    if not ImageIndex.exists(index):
        created = ShardedIndex.create_sharded(
            index, shards, model or DEFAULT_MODEL, settings, replicas
        )
        created.close()
    images = ImageIndex.open(index, model, searched=False)
    count = images.shard_count
    images.close()
    if count != shards:
        has = plural(count, "shard") if count else "no shards"
        raise UsageError(f"{index} has {has}; delg index shard splits an index into another number")
    return ImageIndex.open(index, model, ray, searched=False)


@app.command("add")
def index_add(
    sources: Sources,
    index: IndexDir,
    model: NamedModel = None,
    labels: Labels = None,
    prefix: Prefix = "",
    exclude: Exclude = None,
    default_excludes: DefaultExcludes = True,
    reread: Reread = False,
    ray: Ray = None,
    as_json: AsJson = False,
) -> None:
    """Add new and changed photos to an index."""
    options = {"labels": labels, "prefix": prefix, "exclude": exclude or (), "reread": reread}
    options["default_excludes"] = default_excludes
    with open_index(index, model=model, ray=ray, searched=False) as images:
        _add(images, sources, options, as_json)


def _add(
    images: ImageIndex, sources: list[Location], options: dict[str, Any], as_json: bool
) -> None:
    with progress("photos") as report:
        summary = images.add(sources, progress=report, **options)
    _print_summary(images, summary, as_json)
    found = summary.added + summary.updated + summary.unchanged + len(summary.moved)
    if not found and not summary.failed:
        log.info("no photo found in %s", ", ".join(map(str, sources)))
    if summary.failed or summary.unreachable or not found:
        raise typer.Exit(PARTLY)


def _print_summary(images: ImageIndex, summary: AddReport, as_json: bool) -> None:
    from delg.images.scan import describe_passed_over

    if as_json:
        failed = [{"path": failure.path, "reason": failure.reason} for failure in summary.failed]
        losses = [vars(loss) for loss in summary.losses]
        print_json({**vars(summary), "failed": failed, "losses": losses, "images": len(images)})
        return
    report_failures(summary.failed)
    if summary.passed_over:
        log.info("%s", describe_passed_over(summary.passed_over))
    for former, present in summary.moved.items():
        log.info("moved: %s, formerly %s", present, former)
    for image_id, reason in summary.unreachable.items():
        log.info("unreachable: %s: %s (still in the index)", image_id, reason)
    for loss in summary.losses:
        log.warning("%s: is a disk not mounted? They stay in the index", loss)
    for image_id in summary.vanished:
        log.info(
            "vanished: %s (still in the index; delg index remove --vanished removes it)", image_id
        )
    for image_id in summary.unknown_labels:
        log.info("label file: no photo has the id %s", image_id)
    moved = f", {len(summary.moved):,} moved" if summary.moved else ""
    print_result(
        f"{plural(summary.added, 'photo')} added, {summary.updated:,} updated, "
        f"{summary.unchanged:,} unchanged, {len(summary.failed):,} failed, "
        f"{len(summary.vanished):,} vanished{moved}; "
        f"{plural(len(images), 'photo')} in {images.path} ({summary.seconds:.1f} s)"
    )


@app.command("remove")
def index_remove(
    index: IndexDir,
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of the images to remove.")] = None,
    vanished: Annotated[
        bool,
        typer.Option(
            "--vanished",
            help="Remove all images whose file is gone; not those that cannot be looked at.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what --vanished would remove.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Remove them even if a source lost most of its photos."),
    ] = False,
) -> None:
    """Remove images from an index."""
    if not ids and not vanished:
        raise UsageError("name the ids to remove, or use --vanished")
    if (dry_run or force) and not vanished:
        raise UsageError("--dry-run and --force go with --vanished")
    with open_index(index) as images:
        if vanished:
            missing = images.missing()
            for loss in missing.losses if dry_run or force else ():
                log.warning("%s", loss)
            for image_id, reason in missing.unreachable.items():
                log.info("unreachable: %s: %s (stays in the index)", image_id, reason)
        removed = images.remove_vanished(dry_run, force) if vanished else []
        rest = [image_id for image_id in ids or [] if image_id not in set(removed)]
        if not dry_run:
            images.remove(rest)
        count, left = len(removed) + len(rest), len(images)
    if dry_run:
        for image_id in (*removed, *rest):
            print_result(image_id)
        log.info("%s would be removed from %s", plural(count, "image"), index)
        return
    print_result(f"{plural(count, 'image')} removed; {plural(left, 'photo')} left in {index}")


@app.command("relocate")
def index_relocate(
    old: Annotated[str, typer.Argument(help="Folder or URL of the photos as the index knows it.")],
    new: Annotated[
        Any, typer.Argument(parser=as_location, help="Folder or URL where they are now.")
    ],
    index: IndexDir,
    force: Annotated[
        bool, typer.Option("--force", help="Do it even if there is no such folder here.")
    ] = False,
) -> None:
    """Tell an index that its photos lie in another folder now."""
    with open_index(index) as images:
        result = images.relocate(old, new, force)
    for image_id in result.absent:
        log.info("not there: %s", image_id)
    print_result(
        f"{plural(result.moved, 'photo')} now below {new}, {len(result.absent):,} not there"
    )
    if result.absent and not force:
        raise typer.Exit(PARTLY)


@app.command("info")
def index_info(
    index: IndexDir,
    as_json: AsJson = False,
    failures: Annotated[
        bool, typer.Option("--failures", help="List the photos that failed, with the reasons.")
    ] = False,
    plain: Annotated[
        bool,
        typer.Option(
            "--plain", help="List the photos too plain to be verified, with their features' number."
        ),
    ] = False,
) -> None:
    """Show the size, model and settings of an index."""
    with open_index(index) as images:
        info = images.info()
        if failures:
            info["failures"] = images.failures()
        if plain:
            info["plain"] = images.plain_photos()
    if as_json:
        print_json(info)
        return
    from index.search.notes import few_features
    from index.storage.ann_index import KIND_DESCRIPTIONS

    settings, failed = info.pop("settings"), info.pop("failures", {})
    few = info.pop("plain", {})
    info["shortlist"] = KIND_DESCRIPTIONS[info["shortlist"]]
    table(
        ["", ""],
        [(_NAMES.get(key, key.replace("_", " ")), _text(value)) for key, value in info.items()],
    )
    changed = _changes(settings)
    print_result(
        f"settings changed from their defaults: {json.dumps(changed) if changed else 'none'}"
    )
    for image_id, reason in failed.items():
        print_result(f"failed: {image_id}: {reason}")
    for image_id, count in few.items():
        print_result(f"plain: {image_id}: {few_features(count)}")


# Keys that need more words for people.
_NAMES = {
    "dead": "removed, space not freed",
    "segments": "segment files",
    "unreadable_segments": "unreadable segment files",
    "shortlist": "search index",
}


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


_OF_MODEL = (("store", "global_codec"), ("verification", "scales"), ("verification", "model_side"))


def _changes(settings: dict[str, Any]) -> dict[str, Any]:
    from index import IndexSettings

    defaults = json.loads(IndexSettings().model_dump_json())
    # The model fills this in, not the user.
    for section, key in _OF_MODEL:
        defaults[section][key] = settings[section][key]
    changed: dict[str, Any] = {}
    for section, values in settings.items():
        default = defaults[section]
        if values != default:
            changed[section] = (
                {key: value for key, value in values.items() if value != default[key]}
                if isinstance(values, dict) and isinstance(default, dict)
                else values
            )
    return changed


@app.command("check")
def index_check(
    index: IndexDir,
    model: NamedModel = None,
    as_json: AsJson = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="First remove what killed writers left behind.")
    ] = False,
) -> None:
    """Read everything in an index and report what is damaged."""
    with open_index(index, model=model) as images:
        for path in images.repair() if repair else []:
            log.info("removed: %s", path)
        report = images.check()
    if as_json:
        print_json(vars(report))
    else:
        for note in report.notes:
            log.info("note: %s", note)
        for problem in report.problems:
            print_result(f"problem: {problem}")
        if not report.problems:
            print_result(f"{index}: no damage found")
    if report.problems:
        raise typer.Exit(FAILED)


@app.command("compact")
def index_compact(index: IndexDir, model: NamedModel = None, config: Config = None) -> None:
    """Free the space of removed images, and rebuild the search index as the settings say."""
    overrides = read_config(config)
    with open_index(index, model=model) as images:
        if config is not None:
            images.configure(overrides, str(config), record=True)
        freed, kind = images.compact(), images.info()["shortlist"]
    from index.storage.ann_index import KIND_DESCRIPTIONS

    print_result(f"{freed:,} bytes freed; search index: {KIND_DESCRIPTIONS[kind]}")
