"""What the report shows, from runs written by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gradsam_exp.reports.page import gather, render, short_names, write_page
from gradsam_exp.reports.sweep import summarize_sweep
from gradsam_exp.runs.comparison import Runs
from gradsam_exp.runs.sweep import collect_runs, with_comparison
from tests.reports.finished_runs import write_run

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_run(tmp_path / "0", {"pipeline": "fg", "bg": "0.1"}, [0.5, 0.6, 0.7, 0.8], identity="same")
    write_run(tmp_path / "1", {"pipeline": "fg", "bg": "0.2"}, [0.5, 0.6, 0.7, 0.8], identity="same")
    write_run(tmp_path / "2", {"pipeline": "oracle", "bg": "0.1"}, [0.9, 0.9, 1.0, 0.8], bound=True)
    write_run(tmp_path / "3", {"pipeline": EVIL, "bg": "0.1"}, None, error=f"{EVIL} is not known")
    write_run(tmp_path / "4", {"pipeline": "fg", "bg": "0.3"}, [0.1, 0.1, 0.2, 0.3], data="y", class_name=EVIL)
    return tmp_path


def test_rows_of_the_comparison(folder: Path):
    content = gather(Runs(folder), collect_runs(Runs(folder)))
    same, bound, failed, other = content["runs"]
    assert same["jobs"] == ["0", "1"]
    assert same["varied"] == ["fg", "0.1, 0.2"]
    assert same["metrics"]["miou"] == pytest.approx([0.65, 0.5, 0.8])
    assert (bound["bound"], same["bound"]) == (True, False)
    assert failed["error"] == f"{EVIL} is not known"
    assert other["command"] == "python run.py pipeline=fg bg=0.3"
    assert other["explore"] == "python run.py task=explore pipeline=fg bg=0.3"
    assert other["changed"] == {"bg": "0.3", "pipeline": "fg"}
    assert [notes[:20] for notes in content["notes"]][2].startswith("the runs are on 2")


def test_pairs_are_of_runs_on_the_same_images(folder: Path):
    table = with_comparison(Runs(folder), collect_runs(Runs(folder)))
    (pair,) = gather(Runs(folder), table)["pairs"]
    assert pair[:2] == [1, 0]
    assert pair[2] == pytest.approx(table["delta_miou"][2])
    assert pair[5] == pytest.approx(table["p"][2], rel=1e-3)
    assert pair[6:] == [3, 1, 0]


def test_charts_count_wins_as_the_table_does(tmp_path: Path):
    write_run(tmp_path / "0", {"pipeline": "fg"}, [0.5, 0.6, 0.7, 0.8])
    write_run(tmp_path / "1", {"pipeline": "fgbg"}, [0.5 + 3e-7, 0.6 - 2e-8, 0.7 + 1e-12, 0.8])
    content = gather(Runs(tmp_path), collect_runs(Runs(tmp_path)))
    one, other = (run["iou"] for run in content["runs"])
    apart = [b - a for a, b in zip(one, other, strict=True)]
    tie = content["tie"]
    counts = [sum(d > tie for d in apart), sum(abs(d) <= tie for d in apart), sum(d < -tie for d in apart)]
    assert counts == content["pairs"][0][6:] == [1, 2, 1]


def test_names_are_as_short_as_they_can_be():
    assert short_names(["0", "1", "10"]) == ["0", "1", "10"]
    first, second = "a/2026-01-31_09-30-00-123456", "b/2026-01-31_09-30-00-654321"
    assert short_names([f"{first}/0", f"{first}/1", "a/2026-01-31_10-00-00-000000/0"]) == [
        "09-30-00/0",
        "09-30-00/1",
        "10-00-00/0",
    ]
    another_day = ["evaluate/2026-01-31_09-30-00-123456", "evaluate/2026-02-01_09-30-00-123456"]
    assert short_names(another_day) == ["2026-01-31_09-30-00", "2026-02-01_09-30-00"]
    same_second = ["2026-01-31_09-30-00-123456", "2026-01-31_09-30-00-654321"]
    assert short_names([first, second]) == same_second
    assert short_names(["a/x/0", "b/x/0"]) == ["a/x/0", "b/x/0"]
    assert short_names([]) == []


def test_runs_that_failed_are_together_and_bring_no_columns(tmp_path: Path):
    for k, name in enumerate(("fg", "fgbg")):
        write_run(tmp_path / str(k), {"pipeline": name}, [0.5, 0.6, 0.7, 0.8])
    for k, key in enumerate(("bg_treshold", "bg_treshold", "limit")):
        write_run(tmp_path / str(k + 2), {key: str(k)}, None, error=f"{key} is wrong")
    content = gather(Runs(tmp_path), collect_runs(Runs(tmp_path)))
    assert content["varied"] == ["pipeline"]
    assert content["failures"] == [
        {"status": "failed", "error": "bg_treshold is wrong", "runs": [2, 3]},
        {"status": "failed", "error": "limit is wrong", "runs": [4]},
    ]


def test_the_answer_stands_first(tmp_path: Path):
    for k, name in enumerate(("fg", EVIL)):
        write_run(
            tmp_path / str(k), {"pipeline": name}, [0.5 + 0.1 * k, 0.6 + 0.1 * k, 0.7 + 0.1 * k, 0.8 + 0.1 * k]
        )
    text = render(gather(Runs(tmp_path), collect_runs(Runs(tmp_path))))
    answer = text.index("wins: mIoU is higher by 0.100 [0.100, 0.100] than with fg")
    assert answer < text.index('id="forest"') < text.index('id="comparison"')
    assert "&lt;script&gt;" in text
    assert EVIL not in text


def test_what_all_runs_have_in_common_takes_no_column(tmp_path: Path):
    for k, rate in enumerate((0.1, 0.2)):
        more = {"bg_hit_rate": {"mean": rate}, "accuracy": {"mean": 0.75}}
        write_run(tmp_path / str(k), {"pipeline": "fg"}, [0.5, 0.6, 0.7, 0.8], more=more)
    folder, table = tmp_path, collect_runs(Runs(tmp_path))
    content = gather(Runs(folder), table)
    assert list(content["titles"]) == ["miou", "bg_hit_rate"]
    assert "accuracy is 0.750 in all runs" in content["notes"]
    assert list(gather(Runs(folder), table.drop(columns="miou"))["titles"]) == ["bg_hit_rate", "accuracy"], (
        "no mIoU"
    )


def test_the_baseline_is_the_first_or_the_one_that_was_asked_for(folder: Path):
    table = collect_runs(Runs(folder))
    assert gather(Runs(folder), table)["baseline"] == 0
    assert gather(Runs(folder), table, baseline="2")["baseline"] == 1
    assert gather(Runs(folder), table, baseline="1")["baseline"] == 0, "it is the same run as 0"
    assert with_comparison(Runs(folder), table, "2")["delta_miou"][0] == pytest.approx(-0.25)


def test_names_cannot_become_code(folder: Path):
    text = render(gather(Runs(folder), collect_runs(Runs(folder))))
    assert EVIL not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; is not known" in text
    (data,) = re.findall(r'<script type="application/json" id="content">(.*?)</script>', text, re.DOTALL)
    assert json.loads(data)["sets"][1]["classes"] == [EVIL]


def test_the_page_needs_nothing_from_elsewhere(folder: Path):
    text = write_page(Runs(folder), collect_runs(Runs(folder)), folder / "report.html").read_text()
    head, _, rest = text.partition('<script type="application/json"')
    assert "default-src 'none'" in head
    for part in (head, rest.partition("</script>")[0]):
        assert not re.search(r'(?<!-)(?:src|href)\s*=\s*(?!"#)', part), "only links inside"
    assert text.count("plotly.js v") == 1


def test_a_report_that_fails_costs_no_sweep(folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("gradsam_exp.reports.page.gather", broken)
    assert len(summarize_sweep(folder)) == 5
    assert "report.html was not written (ZeroDivisionError: a bug)" in caplog.text
    assert not list(folder.glob("report.html*"))
    assert {"sweep.csv", "sweep.md", "sweep.tex"} <= {path.name for path in folder.iterdir()}


def test_runs_that_failed_alone_still_have_a_page(tmp_path: Path):
    write_run(tmp_path / "0", {"pipeline": "fgb"}, None, error="not known")
    content = gather(Runs(tmp_path), collect_runs(Runs(tmp_path)))
    assert content["baseline"] is None
    assert "not known" in render(content)
