"""Requests made up from the API's own description."""

from __future__ import annotations

import contextlib
import shutil

import hypothesis
import pytest
import schemathesis
from dots import DotModel
from servers import at_port

from index.serve.app import make_app
from index.serve.service import Service
from index.serve.settings import ServeSettings
from index.serve.shared_index import SharedIndex


@pytest.fixture(scope="module")
def described(tmp_path_factory, stock, dot_model_folder):
    place = tmp_path_factory.mktemp("fuzz") / "i"
    shutil.copytree(stock / "i", place)
    settings = ServeSettings(writable=True, seconds=20)
    app = make_app(Service(SharedIndex(place, extractor=DotModel(dot_model_folder)), settings))
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(at_port(app))
        yield schemathesis.openapi.from_url(f"{address}/openapi.json")


OPERATIONS = {
    ("/api/query", "POST"), ("/api/stats", "GET"), ("/api/facets", "GET"), ("/health", "GET"),
    ("/api/images", "POST"),
    ("/api/queries", "POST"), ("/api/queries/{batch_id}", "GET"),
    ("/api/queries/{batch_id}", "DELETE"), ("/api/queries/{batch_id}.csv", "GET"),
    ("/api/images/{image_id}", "PATCH"), ("/api/images/{image_id}/restore", "POST"),
    ("/api/trash", "GET"), ("/api/trash/restore", "POST"), ("/api/trash/empty", "POST"),
    ("/api/images/{image_id}/undo", "POST"), ("/api/changes", "GET"),
    ("/api/duplicates", "GET"), ("/api/duplicates.csv", "GET"),
    ("/api/duplicates/remove", "POST"), ("/api/duplicates/ignore", "POST"),
    ("/api/duplicates/heed", "POST"),
    ("/api/groups", "GET"), ("/api/groups", "POST"), ("/api/groups.csv", "GET"),
    ("/api/groups/labels.csv", "GET"), ("/api/groups/merge", "POST"),
    ("/api/groups/split", "POST"),
    ("/api/pairs", "GET"), ("/api/pairs", "POST"), ("/api/pairs.csv", "GET"),
    ("/api/pairs/decide", "POST"),
    ("/api/searches", "GET"), ("/api/searches", "POST"), ("/api/searches/{search_id}", "GET"),
    ("/api/searches/{search_id}", "PATCH"), ("/api/searches/{search_id}", "DELETE"),
    ("/api/searches/{search_id}/hits.csv", "GET"),
    ("/api/searches/{search_id}/hits.zip", "GET"),
    ("/api/searches/{search_id}/report.html", "GET"),
    ("/api/indexes", "GET"),
    ("/api/marks", "GET"), ("/api/marks", "POST"), ("/api/marks.csv", "GET"),
    ("/api/images/{image_id}", "GET"), ("/api/images/{image_id}", "DELETE"),
    ("/api/images/{image_id}/thumb", "GET"), ("/api/images/{image_id}/photo", "GET"),
}  # fmt: skip
# Address and form may both carry a value, so what is missing in one place is no fault.
LEFT_OUT = ("positive_data_acceptance", "negative_data_rejection", "missing_required_header")


def test_every_operation_is_tried(described):
    operations = {operation.ok() for operation in described.get_all_operations()}
    assert {(operation.path, operation.method.upper()) for operation in operations} == OPERATIONS


@pytest.mark.parametrize(("path", "method"), sorted(OPERATIONS))
def test_made_up_requests_are_answered_as_described(described, path, method):
    @hypothesis.given(case=described[path][method].as_strategy())
    @hypothesis.settings(max_examples=15)
    def ask(case: schemathesis.Case) -> None:
        left_out = [schemathesis.checks.CHECKS.get_one(name) for name in LEFT_OUT]
        case.call_and_validate(excluded_checks=left_out)

    ask()
