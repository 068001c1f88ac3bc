"""The command line: ``delg …``.

Every command imports what it needs when it runs, so that ``--help`` answers at once and commands
that only look into an index do not load TensorFlow.
"""

from __future__ import annotations

import json
import signal
import sys
from importlib.metadata import entry_points
from types import FrameType

import typer

from delg.cli import model, train
from delg.cli.console import put, say, table
from delg.cli.options import FAILED, WRONG_USE, AsJson
from delg.errors import DelgError, UsageError

INTERRUPTED = 130
# The group of entry points, functions that take the application and add commands to it.
COMMANDS = "delg.commands"

app = typer.Typer(
    help="Find the photos of that very thing, with the matching points as proof.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


app.add_typer(model.app, name="model")
app.command()(train.train)
app.add_typer(train.data_app, name="data")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Versions, hardware, and where each package was imported from."""
    from delg.cli.doctor import examine, problems

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


def _add_commands_of_other_packages() -> None:
    """``index`` and ``eval`` name their commands as entry points, so nothing here imports them."""
    for entry_point in sorted(entry_points(group=COMMANDS), key=lambda entry: entry.value):
        entry_point.load()(app)


class _Interrupted(BaseException):
    """Ctrl-C; the library that reads the command line has its own idea of the built-in one."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise _Interrupted


def main() -> None:
    """Run the command line; people's mistakes end in one clear line and an exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    _add_commands_of_other_packages()
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
