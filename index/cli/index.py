"""``delg index …``: build and look after an index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delg.cli.console import plural, progress, put, report_failures, say, table
from delg.cli.options import DEFAULT_MODEL, FAILED, PARTLY, AsJson, Config, Model, Sources, group
from delg.errors import UsageError
from index.cli.options import IndexDir, Labels, Prefix, open_index, read_config

if TYPE_CHECKING:
    from index.image_index import ImageIndex
    from index.ingest import AddReport

app = group("Build and look after an index.")


@app.command("build")
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
    from delg.settings import parse

    overrides = read_config(config)
    from index import ImageIndex, IndexSettings

    missing = [str(source) for source in sources if not source.exists()]
    if missing:
        raise UsageError(f"{', '.join(missing)}: no such folder or file")
    if ImageIndex.exists(index):
        images = ImageIndex.open(index)
        images.check_model(model)
        if overrides:
            images.configure(overrides, str(config), record=True)
    else:
        settings = parse(IndexSettings, overrides, str(config))
        images = ImageIndex.create(index, model or DEFAULT_MODEL, settings=settings)
    _add(images, sources, labels, prefix, as_json)


@app.command("add")
def index_add(
    sources: Sources,
    index: IndexDir,
    labels: Labels = None,
    prefix: Prefix = "",
    as_json: AsJson = False,
) -> None:
    """Add new and changed photos to an index."""
    _add(open_index(index), sources, labels, prefix, as_json)


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


@app.command("remove")
def index_remove(
    index: IndexDir,
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of images.")] = None,
    vanished: Annotated[
        bool, typer.Option("--vanished", help="All images whose file is gone.")
    ] = False,
) -> None:
    """Take images out of an index."""
    images = open_index(index)
    wanted = [*(ids or []), *(images.vanished() if vanished else [])]
    if not wanted and not vanished:
        raise UsageError("name the ids to remove, or use --vanished")
    count = images.remove(wanted)
    put(f"{plural(count, 'image')} removed; {plural(len(images), 'photo')} left in {index}")


@app.command("info")
def index_info(
    index: IndexDir,
    as_json: AsJson = False,
    failures: Annotated[
        bool, typer.Option("--failures", help="List the photos that failed, with reasons.")
    ] = False,
) -> None:
    """What an index holds."""
    images = open_index(index)
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
    # What the model fills in nobody has changed.
    defaults["verification"]["scales"] = settings["verification"]["scales"]
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


@app.command("check")
def index_check(index: IndexDir, as_json: AsJson = False) -> None:
    """Read everything in an index and say what is damaged."""
    found = open_index(index).check()
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


@app.command("compact")
def index_compact(index: IndexDir, config: Config = None) -> None:
    """Free the space of removed images, and rebuild the shortlist as the settings ask."""
    overrides = read_config(config)
    images = open_index(index)
    if config is not None:
        images.configure(overrides, str(config), record=True)
    put(f"{images.compact():,} bytes freed; the shortlist is {images.info()['shortlist']}")
