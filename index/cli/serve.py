"""``delg serve``: an index in a browser, and an HTTP API."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delg.cli.console import plural, print_result
from delg.cli.options import Config
from delg.errors import DelgError, UsageError
from delg.paths import is_folder
from index.cli.options import NamedModel, Ray, read_config

if TYPE_CHECKING:
    from index.serve.service import Service

log = logging.getLogger(__name__)
# The group of entry points, functions from a folder of runs to pages about them.
RUN_PAGES = "delg.run_pages"


def serve(
    index: Annotated[
        list[Path],
        typer.Option(
            "--index",
            help="Folder of the index; repeatable: the first is at /, and each at /indexes/NAME.",
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free port.")
    ] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="DELG_TOKEN",
            help="Require this token from every client; mandatory with a non-loopback --host.",
        ),
    ] = None,
    no_auth: Annotated[
        bool,
        typer.Option("--no-auth", help="Serve everyone who can reach the host, without a token."),
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Further host name to answer to, for example behind a proxy."),
    ] = None,
    writable: Annotated[
        bool, typer.Option("--writable", help="Allow adding and removing photos over HTTP.")
    ] = False,
    runs: Annotated[
        Path | None, typer.Option(help="Folder of benchmark runs (from delg eval … --out) to show.")
    ] = None,
    saved: Annotated[
        Path | None,
        typer.Option(help="SQLite file of saved searches (default: inside the index)."),
    ] = None,
    saved_days: Annotated[
        float, typer.Option(min=0, help="Days that saved searches are kept; 0: until deleted.")
    ] = 90.0,
    tiles: Annotated[
        str | None,
        typer.Option(help="Map tiles, https://…/{z}/{x}/{y}.png (default: a plain outline)."),
    ] = None,
    tiles_credit: Annotated[str, typer.Option(help="Whom to name as the tiles' source.")] = "",
    max_upload: Annotated[int, typer.Option(min=1, help="Largest upload accepted, in MiB.")] = 32,
    queue: Annotated[
        int, typer.Option(min=0, help="Queries that may wait; further ones are answered with 503.")
    ] = 16,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds that a query may take, waiting included.")
    ] = 30.0,
    model: NamedModel = None,
    config: Config = None,
    ray: Ray = None,
) -> None:
    """Serve an index as a web page and an HTTP API."""
    from delg.settings import parse
    from index.serve.settings import ServeSettings

    values = {
        "host": host, "port": port, "token": token, "no_auth": no_auth,
        "allow_hosts": tuple(allow_host or ()), "writable": writable,
        "tiles": tiles, "tiles_credit": tiles_credit,
        "saved": saved, "saved_days": saved_days,
        "max_upload_mib": max_upload, "queue": queue, "seconds": timeout,
    }  # fmt: skip
    settings = parse(ServeSettings, values, "delg serve")
    settings.check()
    if runs is not None and not is_folder(runs):
        raise UsageError(f"--runs {runs}: no such folder")
    overrides = _overrides(config)

    from index.serve.app import make_app
    from index.serve.service import Service
    from index.serve.several import IndexSwitch
    from index.serve.shared_index import SharedIndex

    names = [folder.resolve().name for folder in index]
    if len(set(names)) < len(names):
        raise UsageError("--index: two folders have the same name, which their API goes by")
    indexes: dict[str, SharedIndex] = {}
    descriptions: list[str] = []
    for name, folder in zip(names, index, strict=True):
        log.info("opening %s and its model", folder)
        shared = SharedIndex(folder, overrides, str(config), model=model, ray=ray)
        with shared.reading() as images:
            descriptions.append(f"{plural(len(images), 'photo')} in {folder}")
        shared.warm()
        indexes[name] = shared
    # A file of saved searches is for one index: the others keep theirs in their folders.
    other_settings = settings.model_copy(update={"saved": None})
    services = [
        Service(shared, settings if name == names[0] else other_settings, indexes)
        for name, shared in indexes.items()
    ]
    run_pages = [] if runs is None else [p.load()(runs) for p in entry_points(group=RUN_PAGES)]
    first, *others = services
    for service in services:
        threading.Thread(target=service.remembered.prepare, daemon=True, name="prepare").start()
    apps = [make_app(first, run_pages), *map(make_app, others)]
    app = IndexSwitch(dict(zip(names, apps, strict=True)))
    _run(app, services, "; ".join(descriptions))


def _overrides(config: Path | None) -> dict[str, Any] | None:
    return None if config is None else read_config(config)


def _run(app: Any, services: Sequence[Service], description: str) -> None:
    import uvicorn

    from index.serve.timeouts import server_config

    settings = services[0].settings

    class Server(uvicorn.Server):
        """Prints its address; when it stops, waiting queries are refused at once."""

        async def shutdown(self, sockets: Any = None) -> None:
            for service in services:
                service.stop_jobs()
            await super().shutdown(sockets)

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.should_exit:
                return
            port = self.servers[0].sockets[0].getsockname()[1]
            name = f"[{settings.host}]" if ":" in settings.host else settings.host
            print_result(f"http://{name}:{port}")
            log.info("%s; open the address above, stop with Ctrl-C", description)

    server = Server(server_config(app, settings))
    # Once it has stopped, the server would send itself the signal again.
    handlers = {s: signal.signal(s, lambda *_: None) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run()
    except SystemExit:
        raise DelgError(
            f"cannot listen on {settings.host}:{settings.port}; "
            "is the port in use? choose another --port"
        ) from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    log.info("stopped")
