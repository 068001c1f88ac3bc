"""Ask an index what the queries of ``delg query`` show, and print or write what it answers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from delg.cli.console import plural, progress, report_failures
from delg.cli.options import FAILED, PARTLY
from delg.cli.streams import answer_is_lost
from delg.remote_path import Location
from index.cli.queries import Query, usable_queries
from index.cli.query_output import Output, print_failure, print_hits, print_summary
from index.cli.query_pictures import UniqueNames, draw_hits, write_page

if TYPE_CHECKING:
    from delg.types import Box, Failure
    from index.image_index import ImageIndex
    from index.search.search import QueryOptions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class QueryRun:
    """One run of the command.

    Attributes:
        images: the index.
        index: its folder, as typed.
        options: of all queries.
        output: what is printed.
        failed: queries that cannot be used; more are appended.
    """

    images: ImageIndex
    index: Path
    options: QueryOptions
    output: Output
    failed: list[Failure]

    def query_each(
        self, queries: Sequence[Query], box: Box | None, draw: Path | None, html: Path | None
    ) -> None:
        """Print the results of each query, and draw them if asked."""
        from delg.images.decode import ImageError

        names, pages = UniqueNames(), []
        answered = 0
        for failure in self.failed:
            print_failure(failure, self.output)
        for each in queries:
            if answer_is_lost() and draw is None and html is None:
                break
            try:
                result = each.run(self.images, box, self.options)
            except ImageError as error:
                print_failure(self._fail(each.name, error), self.output)
                continue
            answered += 1
            print_hits(each.name, self.index, result, self.output)
            if each.photo is not None and html is not None:
                pages.append((each.photo, result))
            if each.photo is not None and draw is not None:
                draw_hits(draw, names.of(each.photo), each.photo, result)
        if html is not None and pages:
            write_page(html, pages)
        self._finish(answered)

    def query_together(self, queries: Sequence[Query], minus: Sequence[Location]) -> None:
        """Query with all photos as one; those that cannot be used are left out."""
        images = self.images
        plus = usable_queries(images, queries, self.failed)
        against = usable_queries(images, [Query(str(each), each) for each in minus], self.failed)
        if plus:
            options: QueryOptions = {
                **self.options, "without": {each.id for each in plus if each.id},
            }  # fmt: skip
            result = images.query_together(
                [each.source(images) for each in plus],
                [each.source(images) for each in against],
                **options,
            )
            name = " + ".join(each.name for each in plus)
            name += "".join(f" − {each.name}" for each in against)
            print_hits(name, self.index, result, self.output)
        self._finish(len(plus))

    def fill_table(self, path: Path, queries: Sequence[Query], box: Box | None) -> None:
        """Write a row for each query that the table does not answer yet."""
        from delg.images.decode import ImageError
        from index.answers.answer_table import AnswerFile, answer_row, columns_for, failure_row

        keys = [key for key, _ in self.images.counts()["metadata"]]
        table = AnswerFile(path, columns_for(sorted(keys)))
        remaining = [each for each in queries if each.name not in table.answered]
        known = len(queries) - len(remaining)
        if known:
            log.info(
                "%s has answers to %s already; delete it to ask again", path, plural(known, "photo")
            )
        verdicts: list[str] = []
        with table.writing(), progress("querying") as report:
            for failure in self.failed:
                table.write(failure_row(failure.path, failure.reason))
            for done, each in enumerate(remaining, 1):
                try:
                    result = each.run(self.images, box, self.options)
                except ImageError as error:
                    failure = self._fail(each.name, error)
                    table.write(failure_row(failure.path, failure.reason))
                else:
                    verdicts.append(result.answer().verdict)
                    table.write(answer_row(each.name, result))
                report(done, len(remaining), len(self.failed))
        print_summary(path, verdicts, len(self.failed))
        self._finish(known + len(verdicts))

    def query_features(self, files: Sequence[Path]) -> None:
        """Query with the features of every photo in the files; each query is named by its id."""
        from delg.types import Failure
        from index.formats import read
        from index.formats.exchange import as_image_features
        from index.formats.parsed import BadFeaturesError
        from index.formats.pyramid_scales import with_pyramid_scales

        answered, images = 0, self.images
        for parsed in with_pyramid_scales(read(files)[1], images.pyramid, str(files[0])):
            if answer_is_lost():
                break
            if isinstance(parsed, Failure):
                self.failed.append(parsed)
                continue
            try:
                features = as_image_features(parsed, images.feature_spec)
            except BadFeaturesError as error:
                self._fail(parsed.id, error)
                continue
            result = images.search(features).hits(**self.options)
            print_hits(parsed.id, self.index, result, self.output)
            answered += 1
        self._finish(answered)

    def _fail(self, name: str, error: Exception) -> Failure:
        from delg.types import Failure

        self.failed.append(Failure(name, str(error)))
        return self.failed[-1]

    def _finish(self, answered: int) -> None:
        report_failures(self.failed)
        if self.failed:
            raise typer.Exit(PARTLY if answered else FAILED)
