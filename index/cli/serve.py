"""``delg serve``: an index in a browser, and for programs over HTTP."""

from __future__ import annotations

import signal
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delg.cli.console import plural, put, say
from delg.cli.options import Config
from delg.errors import DelgError, UsageError
from index.cli.options import IndexDir, read_config

if TYPE_CHECKING:
    from index.serve.service import Service

# The group of entry points, functions from a folder of runs to pages about them.
RUN_PAGES = "delg.run_pages"


def serve(
    index: IndexDir,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(envvar="DELG_TOKEN", help="Ask everyone for it; needed for other hosts."),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Let in everyone who can reach the host.")
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A further name browsers call it by, as behind a proxy."),
    ] = None,
    writable: Annotated[
        bool, typer.Option("--writable", help="Photos can be added and removed.")
    ] = False,
    runs: Annotated[
        Path | None, typer.Option(help="Folder of benchmark runs (delg eval … --out) to show.")
    ] = None,
    max_upload: Annotated[int, typer.Option(min=1, help="MiB of an uploaded photo.")] = 32,
    queue: Annotated[int, typer.Option(min=0, help="Queries that may wait; then 503.")] = 16,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a query.")] = 30.0,
    config: Config = None,
) -> None:
    """Search and look at an index in a browser; an HTTP API for programs."""
    from delg.settings import parse
    from index.serve.settings import ServeSettings

    values = {
        "host": host, "port": port, "token": token, "no_auth": no_auth,
        "allow_hosts": tuple(allow_host or ()), "writable": writable,
        "max_upload_mib": max_upload, "queue": queue, "seconds": timeout,
    }  # fmt: skip
    settings = parse(ServeSettings, values, "delg serve")
    settings.check()
    if runs is not None and not runs.is_dir():
        raise UsageError(f"--runs {runs}: no such folder")
    overrides = _overrides(config)

    from index.serve.app import make_app
    from index.serve.service import Service
    from index.serve.shared_index import SharedIndex

    say(f"opening {index} and its model")
    shared = SharedIndex(index, overrides, str(config))
    with shared.reading() as images:
        for problem in images.lost():
            say(f"warning: {problem}")
        count = len(images)
    shared.warm()
    more = [] if runs is None else [pages.load()(runs) for pages in entry_points(group=RUN_PAGES)]
    service = Service(shared, settings)
    _run(make_app(service, more), service, f"{plural(count, 'photo')} in {index}")


def _overrides(config: Path | None) -> dict[str, Any] | None:
    return None if config is None else read_config(config)


def _run(app: Any, service: Service, what: str) -> None:
    import uvicorn

    from index.serve.timeouts import server_config

    settings = service.settings

    class Server(uvicorn.Server):
        """Says where it listens; told to stop, it lets nobody wait."""

        async def shutdown(self, sockets: Any = None) -> None:
            service.workers.close()
            await super().shutdown(sockets)

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.should_exit:
                return
            port = self.servers[0].sockets[0].getsockname()[1]
            name = f"[{settings.host}]" if ":" in settings.host else settings.host
            put(f"http://{name}:{port}")
            sys.stdout.flush()
            say(f"{what}; open the address above, stop with Ctrl-C")

    server = Server(server_config(app, settings))
    # Once it has stopped, the server would send itself the signal again.
    before = {one: signal.signal(one, lambda *_: None) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run()
    except SystemExit:
        raise DelgError(
            f"{settings.host}:{settings.port} cannot be listened at; is it taken? choose --port"
        ) from None
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    say("stopped")
