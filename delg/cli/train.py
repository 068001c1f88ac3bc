"""``delg train`` and ``delg data …``: learn a model from photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from delg.cli.console import plural, print_result, progress, report_failures
from delg.cli.options import PARTLY, group
from delg.errors import UsageError
from delg.network.tensorflow_import import load_tensorflow

data_app = group("Prepare photos for training.")


def train(
    config: Annotated[Path, typer.Option(help="YAML file with the settings of the run.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last checkpoint.")
    ] = False,
) -> None:
    """Train a model into a folder that --model accepts."""
    from delg.training.settings import read_train_settings

    settings = read_train_settings(config)
    load_tensorflow()
    from delg.training.stages import train_in_stages

    print_result(str(train_in_stages(settings, resume, progress)))


@data_app.command("sample")
def data_sample(
    out: Annotated[Path, typer.Argument(help="Folder to write the photos to.")],
    views: Annotated[int, typer.Option(min=2, help="Number of photos per label.")] = 16,
) -> None:
    """Write a small labelled dataset of warped sample photos, to try training on."""
    from delg.training.sample_dataset import write_samples

    print_result(f"{plural(write_samples(out, views), 'photo')} in {out}")


@data_app.command("targets")
def data_targets(
    config: Annotated[Path, typer.Option(help="YAML file of the run; its photos are described.")],
    teacher: Annotated[
        list[str],
        typer.Option(help="A model's name or folder; repeatable, descriptors are concatenated."),
    ],
    out: Annotated[Path, typer.Option(help="HDF5 file to write, for data.targets.")],
) -> None:
    """Compute a teacher's global descriptors of the training photos, to distil from."""
    from delg.training.settings import read_train_settings
    from delg.zoo.registry import load_model

    settings = read_train_settings(config)
    teachers = [load_model(name) for name in teacher]
    load_tensorflow()
    from delg.training.dataset import load_training_data
    from delg.training.targets import compute_targets, write_targets

    # The file to be made need not exist yet.
    photos = settings.data.model_copy(update={"targets": None, "targets_only": False})
    data = load_training_data(settings.model_copy(update={"data": photos}), progress)
    with progress("photos") as report:
        targets = compute_targets(teachers, data.train, report)
    write_targets(out, targets)
    failures = data.all_failures()
    report_failures(failures)
    print_result(f"targets of {plural(len(targets.ids), 'photo')} in {out}")
    if failures:
        raise typer.Exit(PARTLY)


@data_app.command("tfrecord")
def data_tfrecord(
    out: Annotated[Path, typer.Option(help="Folder to write the files to.")],
    sources: Annotated[
        list[Path] | None, typer.Argument(help="Folders with one subfolder per label.")
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(help="GLDv2's train.csv or train_clean.csv, instead of folders."),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Root folder of GLDv2's images.")] = None,
    name: Annotated[str, typer.Option(help="Prefix of the file names.")] = "train",
    shards: Annotated[int, typer.Option(min=1, help="Number of files.")] = 8,
) -> None:
    """Write photos as TFRecords in the schema of the published DELG code."""
    from delg.training.settings import DataSettings, Gldv2Settings

    if (csv is None) != (images is None) or (csv is None) == (not sources):
        raise UsageError("give folders, or --csv together with --images")
    gldv2 = Gldv2Settings(csv=csv, images=images) if csv and images else None
    settings = DataSettings(folders=tuple(sources or ()), gldv2=gldv2)
    load_tensorflow()
    from delg.training.dataset import list_items
    from delg.training.tfrecords import write_tfrecords

    items, failures = list_items(settings)
    written, unreadable = write_tfrecords(items, out, name, shards)
    failures += unreadable
    report_failures(failures)
    print_result(f"{plural(written, 'photo')} in {plural(shards, 'file')} in {out}")
    if failures:
        raise typer.Exit(PARTLY)
