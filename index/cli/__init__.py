"""The commands of this package: index, query, match, extract, export, serve, demo."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the commands to ``delg``."""
    from index.cli import demo, exchange, extract, index, query, serve

    app.command()(demo.demo)
    index.app.command("import")(exchange.index_import)
    app.add_typer(index.app, name="index")
    app.command()(query.query)
    app.command()(query.match)
    app.command()(serve.serve)
    app.command()(extract.extract)
    app.command()(exchange.export)
