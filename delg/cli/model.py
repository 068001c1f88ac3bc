"""``delg model …``: the known models."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delg.cli.console import print_json, print_result, progress, table
from delg.cli.options import DEFAULT_MODEL, AsJson, group

if TYPE_CHECKING:
    from delg.zoo.registry import ModelFiles

log = logging.getLogger(__name__)
app = group("List, download and export models.")


@app.command("list")
def model_list(as_json: AsJson = False) -> None:
    """List the models that the package knows by name."""
    from delg.zoo.registry import find_model, shipped_models

    models = [find_model(name) for name in shipped_models()]
    if not as_json:
        rows = [(m.settings.name, _state(m), m.settings.description) for m in models]
        table(["name", "", ""], rows, fold_last=True)
        return
    for model in models:
        settings = model.settings
        values = {
            "name": settings.name,
            "description": settings.description,
            "weights": model.has_weights,
        }
        print_json(values)


def _state(model: ModelFiles) -> str:
    from delg.zoo.tower_file import has_tower

    if model.has_weights:
        return "ready"
    export, tower = model.settings.export, model.settings.tower
    if tower is not None and has_tower(tower):
        return "needs fit-towers"
    is_published = tower is not None or (export is not None and export.archive)
    return "to be pulled" if is_published else "needs weights"


@app.command("pull")
def model_pull(
    model: Annotated[str, typer.Argument(help="Name of a published model.")],
    from_file: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Its .tar.gz archive, for machines without a network; for a second tower, its "
            "weights as .pt, .safetensors or .onnx.",
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Download the file from this address instead.")
    ] = None,
) -> None:
    """Download a published model; after an interruption, the same command continues."""
    from delg.zoo.pull import pull

    with progress("MiB") as report:
        pulled = pull(
            model, from_file, url, lambda now, total: report(now >> 20, max(now, total) >> 20, 0)
        )
    if pulled.first:
        log.info(
            "note: nobody publishes its checksum; recorded for the next time: %s", pulled.sha256
        )
    print_result(f"{model} is in {pulled.folder}" + ("" if pulled.sha256 else " already"))


@app.command("export")
def model_export(
    model: Annotated[str, typer.Argument(help="A model's name or folder.")],
    kind: Annotated[str, typer.Option("--format", help="savedmodel, onnx or litert.")],
    out: Annotated[Path, typer.Option(help="Folder (savedmodel) or file to write.")],
    weights: Annotated[
        Path | None, typer.Option(help="Weight file to use in place of the model's own.")
    ] = None,
) -> None:
    """Write a model for another runtime, and check it against Keras."""
    from delg.network.tensorflow_import import load_tensorflow
    from delg.zoo.registry import find_model

    files = find_model(model, weights)
    load_tensorflow()
    from delg.zoo.export import export_model

    deviations = export_model(files, out, kind)
    print_result(f"{files.settings.name} as {kind} in {out}")
    for name, value in deviations.items():
        log.info("%s: at most %.1g off Keras' own", name, value)


@app.command("quantize")
def model_quantize(
    model: Annotated[str, typer.Argument(help="A name or a model's folder.")],
    photos: Annotated[
        list[Path], typer.Option(help="Photos, or folders of them, to calibrate on; repeatable.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the quantised model to make.")],
    weights: Annotated[Path | None, typer.Option(help="Another weight file for it.")] = None,
) -> None:
    """Make a model that runs in 8-bit integers, about twice as fast on recent processors."""
    from delg.network.tensorflow_import import load_tensorflow
    from delg.zoo.registry import find_model

    files = find_model(model, weights)
    load_tensorflow()
    from delg.zoo.network_file import quantize_model

    quantize_model(files, photos, out)
    print_result(f"{files.settings.name} in int8 in {out}; measure it before you rely on it")


@app.command("fit-towers")
def model_fit_towers(
    model: Annotated[str, typer.Argument(help="A model with two towers: a name or a folder.")],
    photos: Annotated[
        list[Path],
        typer.Option(help="Folders of labelled photos, one folder per label; repeatable."),
    ],
    per_label: Annotated[
        int, typer.Option("--per-label", min=2, help="Photos of each label, at most.")
    ] = 24,
    features: Annotated[
        Path | None,
        typer.Option(
            help="Keep what the second tower gives in this .npz file, and take it from there."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write (default: beside the model's settings).")
    ] = None,
) -> None:
    """Learn anew what joins the global descriptors of two towers, as after training the first."""
    from delg.zoo.fit_towers import fit_towers
    from delg.zoo.registry import find_model

    files = find_model(model)
    with progress("photos") as report:
        fitted = fit_towers(files, photos, per_label, features, report)
    path = out or files.projection
    fitted.projection.save(path)
    print_result(
        f"{path}: learnt from {fitted.photos:,} photos of {fitted.labels:,} labels for "
        f"{files.settings.name}"
    )


@app.command("info")
def model_info(
    model: Annotated[str, typer.Argument(help="A model's name or folder.")] = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Show a model's settings, weights, fingerprint and model card."""
    from delg.zoo.model_card import read_card
    from delg.zoo.registry import find_model

    files = find_model(model)
    info: dict[str, Any] = {"settings": json.loads(files.settings.model_dump_json())}
    folder = files.projection.parent if files.settings.tower else files.weights.parent
    card = read_card(files.weights if files.settings.export else folder)
    if card is not None:
        # YAML reads dates as such; JSON has none.
        info["card"] = json.loads(json.dumps(card, default=str))
    if files.has_weights:
        size = sum(path.stat().st_size for path in files.files())
        info = {
            "fingerprint": files.fingerprint,
            "weights": str(files.weights),
            "bytes": size,
            **info,
        }
    if as_json:
        print_json(info)
        return
    import yaml

    for line in yaml.safe_dump(info, sort_keys=False, allow_unicode=True).splitlines():
        print_result(line)


@app.command("trust")
def model_trust(
    model: Annotated[str | None, typer.Argument(help="A model's folder.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Another weight file for it.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Let indexes use it no more.")] = False,
) -> None:
    """Let indexes use a model from elsewhere; without a model, list those that they may use.

    A SavedModel can run code: trust only what you or people you trust have made. A model that you
    name when you build an index is trusted by that.
    """
    from delg.errors import UsageError
    from delg.zoo.trust import distrust, trust, trusted_models

    if model is None:
        for entry in trusted_models():
            print_result(entry.model + (f" --weights {entry.weights}" if entry.weights else ""))
    elif not remove:
        trust(model, weights)
        print_result(f"{model} is trusted as long as its files stay as they are")
    elif distrust(model, weights):
        print_result(f"{model} is not trusted any more")
    else:
        raise UsageError(f"{model} is not one of the trusted models")
