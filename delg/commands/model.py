"""``delg model …``: the models there are."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from delg.commands.options import DEFAULT_MODEL, AsJson, group
from delg.console import put, table

app = group("The models there are.")


@app.command("list")
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


@app.command("info")
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
