"""The command line: ``delg …``.

Every command imports what it needs when it runs, so that ``--help`` answers at once and commands
that only look into an index do not load TensorFlow.
"""

from __future__ import annotations

import functools
import logging
import signal
import sys
import traceback
from importlib.metadata import entry_points
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from delg.cli import model, train
from delg.cli.console import log_to_stderr, print_json, print_result, table
from delg.cli.options import DEFAULT_MODEL, FAILED, PARTLY, WRONG_USE, AsJson
from delg.cli.streams import tolerant_streams
from delg.errors import DelgError, UsageError

log = logging.getLogger(__name__)
INTERRUPTED = 130
# The group of entry points, functions that take the application and add commands to it.
COMMANDS = "delg.commands"
# What help lists first: the way a newcomer goes. Commands of other packages come last.
ORDER = (
    *("demo", "index", "query", "match", "serve", "extract", "export"),
    *("eval", "train", "data", "model", "doctor"),
)


class UnexpectedEndError(DelgError):
    """A library met the end of a file where it expected more."""


class _Commands(TyperGroup):
    """All commands, in the order of ``ORDER``."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except EOFError as error:
            # The library that reads the command line takes it for a person's Ctrl-D.
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise UnexpectedEndError(
                f"a file ends too early: {error or 'nothing more is known'} "
                f"(met in {where.filename}, line {where.lineno})"
            ) from error


app = typer.Typer(
    cls=_Commands,
    help="Find the photos that show the same thing, with the matching points as proof.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(requested: bool) -> None:
    if requested:
        from delg import __version__

        print_result(f"delg {__version__}")
        raise typer.Exit


@app.callback()
def _start(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    if not logging.getLogger("delg").handlers:
        log_to_stderr()


app.add_typer(model.app, name="model")
app.command()(train.train)
app.add_typer(train.data_app, name="data")


@app.command()
def doctor(
    model: Annotated[
        str, typer.Option(help="The model to try: a name or a folder.")
    ] = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Show versions, hardware, where each package was imported from, and whether a model loads."""
    from delg.cli.doctor import examine, problems

    report = examine(model)
    if as_json:
        print_json(report)
    else:
        for key in ("system", "cpu", "cores", "memory_gib", "gpus"):
            print_result(f"{key.replace('_', ' ')}: {report[key]}")
        packages = {"python": report["python"], **report["packages"], **report["optional"]}
        table(
            ["package", "version", "from"],
            [
                (name, package.get("version", "-"), package.get("from") or package["error"])
                for name, package in packages.items()
            ],
        )
        tried = report["model"]
        print_result(f"model {tried['name']}: {tried.get('fingerprint', 'broken')}")
        print_result(f"inference backend: {tried.get('runtime', '-')}")
    for problem in problems(report):
        log.info("problem: %s", problem)
    if problems(report):
        raise typer.Exit(FAILED)


@functools.cache
def add_commands_of_other_packages() -> None:
    """``index`` and ``eval`` name their commands as entry points, so nothing here imports them."""
    for entry_point in sorted(entry_points(group=COMMANDS), key=lambda entry: entry.value):
        try:
            entry_point.load()(app)
        except Exception as error:
            # A plug-in that is broken must not take the other commands with it.
            log.warning(
                "the commands of %s (%s) cannot be loaded: %s: %s",
                entry_point.name, entry_point.value, type(error).__name__, error,
            )  # fmt: skip


class _Interrupted(BaseException):
    """Ctrl-C; the library that reads the command line has its own idea of the built-in one."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise _Interrupted


def main() -> None:
    """Run the command line; people's mistakes end in one clear line and an exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    with tolerant_streams() as streams:
        log_to_stderr(propagate=False)
        code = _run()
        if streams.failure is not None and code in (0, PARTLY):
            reason = streams.failure.strerror
            log.error("the answer could not be written to standard output: %s", reason)
            code = FAILED
    sys.exit(code)


def _run() -> int:
    """Run the command and return its exit code."""
    try:
        add_commands_of_other_packages()
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except UsageError as error:
        log.error("%s", error)
        return WRONG_USE
    except DelgError as error:
        log.error("%s", error)
        return FAILED
    except _Interrupted:
        log.info("interrupted; what was committed is kept, and the same command continues")
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    main()
