"""The command line: ``delg …``.

Every command imports what it needs when it runs, so that ``--help`` answers at once and commands
that only look into an index do not load TensorFlow.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from delg.commands import evaluate, exchange, features, index, model, search, serve, train
from delg.commands.options import FAILED, WRONG_USE, AsJson
from delg.console import put, say, table
from delg.errors import DelgError, UsageError

INTERRUPTED = 130

app = typer.Typer(
    help="Find the photos of that very thing, with the matching points as proof.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where photos, index and page go.")] = Path(
        "demo-output"
    ),
) -> None:
    """Index a small gallery of packaged photos, query it, and write a page to open."""
    from index.demo import run_demo

    raise typer.Exit(run_demo(out))


index.app.command("import")(exchange.index_import)
app.add_typer(index.app, name="index")
app.command()(search.query)
app.command()(search.match)
app.command()(serve.serve)
app.command()(features.extract)
app.command()(exchange.export)
app.add_typer(evaluate.app, name="eval")
app.add_typer(model.app, name="model")
app.command()(train.train)
app.add_typer(train.data_app, name="data")


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
        model = found["model"]
        put(f"model {model['name']}: {model.get('fingerprint', 'broken')}")
        put(f"it runs in: {model.get('runtime', '-')}")
    for problem in problems(found):
        say(f"problem: {problem}")
    if problems(found):
        raise typer.Exit(FAILED)


class _Interrupted(BaseException):
    """Ctrl-C; the library that reads the command line has its own idea of the built-in one."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise _Interrupted


def main() -> None:
    """Run the command line; people's mistakes end in one clear line and an exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except UsageError as error:
        say(f"error: {error}")
        sys.exit(WRONG_USE)
    except DelgError as error:
        say(f"error: {error}")
        sys.exit(FAILED)
    except _Interrupted:
        say("interrupted; what was committed is kept, and the same command continues")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read the output has seen enough.
        sys.stderr.close()
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
