import json
import re
import time

import pytest

from delg.errors import UsageError
from eval.reports.charts import growth_chart
from eval.speed.harness import (
    Bench,
    Growth,
    Measurements,
    Point,
    Row,
    machine_info,
    measure,
    stages,
)
from eval.speed.report import cells, write_page


def test_ours_and_the_baseline_take_turns(tmp_path):
    said = []
    Bench(tmp_path, baseline=True, runs=4).time(
        "x", lambda: said.append("o"), lambda: said.append("b"), baseline_runs=2
    )
    # A warm-up of each, then the two measured baseline runs lie between ours.
    assert "".join(said) == "ob" + "obo" + "obo"


def test_without_a_baseline_ours_alone_runs(tmp_path):
    row = Bench(tmp_path, runs=3).time("x", lambda: None, lambda: 1 / 0)
    assert row.baseline is None and row.ratio is None and row.runs == 3


def test_the_ratio_says_how_many_times_faster(tmp_path):
    bench = Bench(tmp_path, baseline=True, runs=3)
    row = bench.time("x", lambda: time.sleep(0.002), lambda: time.sleep(0.02))
    assert 3 < row.ratio < 20
    assert row.as_json()["baseline_ms"] > row.as_json()["median_ms"] > 1


def test_short_work_is_done_several_times_in_a_row(tmp_path):
    calls = []
    row = Bench(tmp_path, runs=3).time(
        "x", lambda: (calls.append(1), time.sleep(0.002)), in_a_row=10
    )
    assert len(calls) == 31 and row.runs == 3
    assert 2 <= row.median < 15


def test_more_can_be_better():
    assert Row.of("x", [20.0], "images/s", 10.0, more_is_better=True).ratio == 2


def test_bytes_are_not_called_milliseconds():
    plain = Row.of("x", [1000.0], "bytes", 5000.0).as_json()
    assert plain["median_ms"] is None and plain["median"] == 1000 and plain["ratio"] == 5


def test_an_unknown_row_is_named():
    with pytest.raises(UsageError, match=r"--only nonsense: no such row; there are .*verify_pair"):
        stages(["nonsense"])


def test_row_names_are_unique():
    names = [name for stage in stages(extras=("serve",)) for name in stage.names]
    assert len(names) == len(set(names))


def test_a_page_shows_rows_and_growth(tmp_path):
    growth = Growth("Time", "photos", "ms")
    points = [Point(growth, line, x, x * 2) for line in ("ours", "<b>theirs") for x in (1, 10)]
    measurements = Measurements([Row.of("a_row", [1.0, 2.0, 9.0])], points, machine_info())
    write_page(tmp_path / "page.html", measurements)
    page = (tmp_path / "page.html").read_text()
    assert "a_row" in page and page.count("<svg") >= 1 and "&lt;b&gt;theirs" in page
    assert json.loads(json.dumps(measurements.as_json()))["growth"][0]["chart"] == "Time"


def test_the_table_has_units():
    assert cells(Row.of("x", [1.5, 2.5, 3.5], baseline=250.0, note="warm")) == [
        "x", "2.50 ms", "1.50 ms", "3.50 ms", "3", "250.0 ms", "100.0×", "warm",
    ]  # fmt: skip


def test_pairs_and_disk_are_measured():
    measurements = measure(quick=True, runs=1, only=["verify_pair", "bytes_an_image_default"])
    rows = {row.name: row for row in measurements.rows}
    assert set(rows) == {"verify_pair", "bytes_an_image_default"}
    assert "500 of 500 true matches found" in rows["verify_pair"].note
    assert all(row.median > 0 for row in measurements.rows)


@pytest.mark.parametrize(
    ("x", "texts"),
    [
        ((1000, 10**6), ["1k", "10k", "100k", "1M"]),
        ((125, 4000), ["200", "500", "1k", "2k"]),
        ((1, 10**9), ["1", "100", "10k", "1M"]),
    ],
)
def test_axes_of_growth_name_few_round_numbers(x, texts):
    drawn = growth_chart("title", "photos", "ms", [(x, (0.2, 50))]).svg
    shown = re.findall(r"<text[^>]*>([^<]*)</text>", drawn)
    assert set(texts) <= set(shown) and len(shown) <= 16
