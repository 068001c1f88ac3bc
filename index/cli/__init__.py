"""The commands of this package: index, query, match, extract, export, serve, demo."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the commands to ``delg``."""
    from delg.cli.model import app as model_app
    from index.cli import (
        adapt,
        demo,
        duplicates,
        edit,
        exchange,
        explore,
        extract,
        groups,
        index,
        marks,
        match,
        model,
        pairs,
        query,
        searches,
        serve,
        sharding,
        tune,
        watch,
    )

    app.command()(demo.demo)
    index.app.command("import")(exchange.index_import)
    index.app.command("tune")(tune.index_tune)
    index.app.command("adapt")(adapt.index_adapt)
    index.app.command("edit")(edit.index_edit)
    index.app.command("restore")(edit.index_restore)
    index.app.command("undo")(edit.index_undo)
    index.app.command("trash")(edit.index_trash)
    index.app.command("log")(edit.index_log)
    index.app.command("mark")(marks.index_mark)
    index.app.command("marks")(marks.index_marks)
    index.app.command("watch")(watch.index_watch)
    index.app.command("shard")(sharding.index_shard)
    index.app.command("merge")(sharding.index_merge)
    index.app.command("move")(sharding.index_move)
    index.app.command("explore")(explore.index_explore)
    index.app.command("duplicates")(duplicates.index_duplicates)
    index.app.command("pairs")(pairs.index_pairs)
    index.app.command("groups")(groups.index_groups)
    index.app.add_typer(searches.app, name="searches")
    app.add_typer(index.app, name="index")
    model_app.command("codebook")(model.model_codebook)
    model_app.command("vocabulary")(model.model_vocabulary)
    model_app.command("aggregate")(model.model_aggregate)
    model_app.command("calibrate")(model.model_calibrate)
    model_app.command("attention")(model.model_attention)
    app.command()(query.query)
    app.command()(match.match)
    app.command()(serve.serve)
    app.command()(extract.extract)
    app.command()(exchange.export)
