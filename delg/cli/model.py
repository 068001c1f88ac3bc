"""``delg model …``: the models there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delg.cli.console import progress, put, say, table
from delg.cli.options import DEFAULT_MODEL, AsJson, group

if TYPE_CHECKING:
    from delg.zoo.registry import ModelFiles

app = group("The models there are.")


@app.command("list")
def model_list(as_json: AsJson = False) -> None:
    """The models that ship with the package."""
    from delg.zoo.registry import find_model, shipped_models

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
            _state(one),
            one.settings.description,
        )
        for one in found
    ]
    table(["name", "", ""], rows)


def _state(one: ModelFiles) -> str:
    if one.has_weights:
        return "ready"
    export = one.settings.export
    return "to be pulled" if export is not None and export.archive else "needs weights"


@app.command("pull")
def model_pull(
    model: Annotated[str, typer.Argument(help="A published model's name.")],
    from_file: Annotated[
        Path | None, typer.Option("--from", help="Its .tar.gz, for machines without a network.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Another address of the archive.")] = None,
) -> None:
    """Fetch a published model; cut off, the same command continues."""
    from delg.zoo.pull import pull

    with progress("MiB") as report:
        done = pull(
            model, from_file, url, lambda now, total: report(now >> 20, max(now, total) >> 20, 0)
        )
    if done.first:
        say(f"note: nobody publishes its checksum; recorded for the next time: {done.sha256}")
    put(f"{model} is in {done.folder}" + ("" if done.sha256 else " already"))


@app.command("export")
def model_export(
    model: Annotated[str, typer.Argument(help="A name or a model's folder.")],
    kind: Annotated[str, typer.Option("--format", help="savedmodel, onnx or litert.")],
    out: Annotated[Path, typer.Option(help="Folder (savedmodel) or file to make.")],
    weights: Annotated[Path | None, typer.Option(help="Another weight file for it.")] = None,
) -> None:
    """Write a model for another runtime, checked against Keras."""
    from delg.network.tensorflow_import import load_tensorflow
    from delg.zoo.registry import find_model

    files = find_model(model, weights)
    load_tensorflow()
    from delg.zoo.export import export_model

    deviations = export_model(files, out, kind)
    put(f"{files.settings.name} as {kind} in {out}")
    for name, value in deviations.items():
        say(f"{name}: at most {value:.1g} off Keras' own")


@app.command("info")
def model_info(
    model: Annotated[str, typer.Argument(help="A name or a model's folder.")] = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """A model's settings, weights and fingerprint, and what its card says."""
    from delg.zoo.model_card import read_card
    from delg.zoo.registry import find_model

    found = find_model(model)
    facts: dict[str, Any] = {"settings": json.loads(found.settings.model_dump_json())}
    export = found.settings.export is not None
    card = read_card(found.weights if export else found.weights.parent)
    if card is not None:
        # YAML reads dates as such; JSON has none.
        facts["card"] = json.loads(json.dumps(card, default=str))
    if found.has_weights:
        size = sum(path.stat().st_size for path in found.files())
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
