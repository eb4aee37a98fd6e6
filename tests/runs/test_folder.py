"""`Run`: what is written is read again; what came from anybody is data, and what is damaged is named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from gradsam_exp.errors import InputError
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.overrides import key_of, unescaped, written
from tests.reports.finished_runs import write_run

SECRET = "s3cret-0123456789"


def configured(folder: Path, text: str) -> Run:
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "config.yaml").write_text(text)
    return Run(folder)


def test_a_saved_configuration_names_keys_and_calls_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET", SECRET)
    run = configured(
        tmp_path,
        """
        fg_threshold: 0.8
        output_root: outputs
        store: {root: '${output_root}/.store'}
        pipeline: {fg_threshold: '${fg_threshold}', twice: ['${..fg_threshold}', '${...fg_threshold}']}
        data:
          url: http://host/?k=${oc.env:SECRET}
          nested: ${oc.env:${data.key},${oc.env:SECRET}}
          key: SECRET
          also: <${data.url}>
          when: ${now:%Y}
          mine: ${undefined.resolver:1}
        model: {layers: [a, b]}
        explainer: {layers: '${model.layers}'}
        """,
    )
    assert run.config["store"] == {"root": "outputs/.store"}
    assert run.config["pipeline"]["fg_threshold"] == 0.8
    assert run.config["explainer"] == {"layers": ["a", "b"]}
    assert run.config["data"] == {
        "url": "http://host/?k=${oc.env:SECRET}",
        "nested": "${oc.env:${data.key},${oc.env:SECRET}}",
        "key": "SECRET",
        "also": "<http://host/?k=${oc.env:SECRET}>",
        "when": "${now:%Y}",
        "mine": "${undefined.resolver:1}",
    }
    assert SECRET not in json.dumps(run.config)


def test_overrides_are_as_they_were_given_and_the_command_can_be_pasted(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("SECRET", SECRET)
    run = Run(write_run(tmp_path / "0", {"data.url": "http://h?a=1&k=${oc.env:SECRET}"}, [0.5] * 4))
    assert run.given == {"data.url": "http://h?a=1&k=${oc.env:SECRET}"}
    assert run.command == "python run.py 'data.url=http://h?a=1&k=${oc.env:SECRET}'"


@pytest.mark.parametrize(
    "text",
    ["a: &x [1]\nb: *x", "a: ${b}", "a: ${a}", "- 1", "0", "true", "!!set {a}", "1: 2\nnull: 3", "a: [", "\x00"],
    ids=["aliases", "no such key", "circle", "list", "number", "truth", "set", "no keys", "broken", "binary"],
)
def test_a_configuration_that_is_none_is_named(tmp_path: Path, text: str):
    run = configured(tmp_path, text)
    with pytest.raises(InputError, match=r"\.hydra/config\.yaml cannot be read"):
        _ = run.config


def spoilt(**changes: object) -> Callable[[Path], None]:
    """Changes the mIoU in ``metrics.json``."""

    def spoil(run: Path) -> None:
        content = json.loads((run / "metrics.json").read_text())
        content["metrics"]["miou"] |= changes
        (run / "metrics.json").write_text(json.dumps(content))

    return spoil


def table(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    """Changes ``per_image.parquet``."""

    def spoil(run: Path) -> None:
        change(pd.read_parquet(run / "per_image.parquet")).to_parquet(run / "per_image.parquet")

    return spoil


def instead(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Puts something else where a file should be."""

    def spoil(run: Path) -> None:
        (run / name).unlink()
        make(run / name)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoilt(ci95=None), "metrics.json says no mean, ci95 and n of miou"),
        (spoilt(mean="0.5"), "metrics.json says no mean, ci95 and n of miou"),
        (spoilt(mean=float("inf")), "metrics.json says no mean, ci95 and n of miou"),
        (spoilt(ci95=[0.1]), "metrics.json says no mean, ci95 and n of miou"),
        (table(lambda t: t.assign(example_id="a")), "per_image.parquet has an image twice"),
        (table(lambda t: t.iloc[:0]), "per_image.parquet has no rows"),
        (table(lambda t: t.assign(iou="much")), "per_image.parquet has values of iou that are no finite numbers"),
        (table(lambda t: t.assign(iou=float("inf"))), "per_image.parquet has values of iou that are no finite"),
        (table(lambda t: t.drop(columns="iou")), "per_image.parquet has no iou"),
        (instead("metrics.json", Path.mkdir), "metrics.json cannot be read (it is no plain file)"),
        (instead("provenance.json", os.mkfifo), "provenance.json cannot be read (it is no plain file)"),
        (instead("per_image.parquet", os.mkfifo), "per_image.parquet cannot be read (it is no plain file)"),
        (instead("metrics.json", lambda p: p.symlink_to("/dev/zero")), "metrics.json cannot be read (it is no pl"),
        (instead(".hydra/config.yaml", os.mkfifo), ".hydra/config.yaml cannot be read (it is no plain file)"),
        (
            instead("metrics.json", lambda p: os.truncate(os.open(p, os.O_CREAT | os.O_RDWR), 2**30)),
            "metrics.json cannot be read (it is larger than 64 MB)",
        ),
        (instead("metrics.json", lambda p: p.write_text("[" * 100_000)), "metrics.json cannot be read"),
        (instead("metrics.json", lambda p: p.write_text("{}")), "metrics.json has no status, identity, metrics"),
        (instead("metrics.json", lambda p: p.write_text("[]")), "metrics.json has no status, identity, metrics"),
        (instead("metrics.json", lambda p: None), "metrics.json is missing"),
        (instead("provenance.json", lambda p: None), "provenance.json is missing"),
        (instead("provenance.json", lambda p: p.write_text('{"digests": 1}')), "provenance.json has no digests"),
        (
            instead("provenance.json", lambda p: p.write_text('{"digests": {}}')),
            "provenance.json has no digest of the data",
        ),
        (
            instead("provenance.json", lambda p: p.symlink_to(p.parents[1] / "outside.json")),
            "provenance.json cannot be read (it is a link out of the run's folder)",
        ),
        (
            instead("per_image.parquet", lambda p: p.write_bytes(b"PAR1 and no more")),
            "per_image.parquet cannot be read (",
        ),
        (
            instead(".hydra/overrides.yaml", lambda p: p.write_text("a: 1")),
            ".hydra/overrides.yaml cannot be read (it is no list)",
        ),
    ],
)
def test_a_hostile_or_damaged_file_is_named(tmp_path: Path, spoil: Callable[[Path], None], said: str):
    folder = write_run(tmp_path / "0", {"pipeline": "fg"}, [0.5] * 4)
    assert Run(folder).problem is None
    (tmp_path / "outside.json").write_text("{}")
    spoil(folder)
    problem = Run(folder).problem
    assert problem is not None
    assert said in problem


def test_a_run_is_whole_if_its_tables_are_of_the_same_images(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = write_run(tmp_path / "0", {}, [0.5] * 4)
    assert Run(folder).is_whole
    pd.read_parquet(folder / "predictions.parquet").iloc[:3].to_parquet(folder / "predictions.parquet")
    assert not Run(folder).is_whole
    assert "its tables are of different images" in caplog.text


def test_what_is_written_is_read_and_the_outcome_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given = Run(write_run(tmp_path / "0", {}, [0.5, 0.6, 0.7, 0.8]))
    chunks = [{"example_ids": ["a", "b", "c", "d"], "stored": {"images": "images/0"}}]
    order: list[str] = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: order.append(Path(b).name) or replace(a, b))
    run = Run(tmp_path / "1")
    run.folder.mkdir()
    run.fail(InputError("not\nyet"))
    assert (run.outcome.status, run.outcome.error, run.identity) == ("failed", "not yet", None)
    run.begin()
    assert not run.has_ended
    run.finish(
        identity="x",
        metrics=given.outcome.metrics,
        per_image=given.images.reset_index(),
        predictions=given.predictions.reset_index(),
        prepared=chunks,
        provenance=given.provenance,
        upper_bound=True,
    )
    assert order[-1] == "metrics.json"
    assert (run.identity, run.outcome.upper_bound, run.prepared) == ("x", True, chunks)
    pd.testing.assert_frame_equal(run.images, given.images)
    other = Run(tmp_path / "2")
    other.folder.mkdir()
    (run.folder / "figures").mkdir()
    (run.folder / "figures" / "worst.png").touch()
    other.reuse(run)
    assert order[-1] == "metrics.json"
    assert (other.identity, other.prepared) == ("x", chunks)
    assert other.provenance["reused_from"] == str(run.folder)
    assert list(other.drawings()) == ["worst"]
    assert other.is_whole
    assert not list(tmp_path.rglob("*.partial"))
    pd.testing.assert_frame_equal(other.images, given.images)


PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" \\\"'$,=:[]{}()")),
    st.sampled_from(["true", "False", "null", "NaN", "inf", "fg", "", "1", "a\\", 'a\\"']),
)  # fmt: skip


@settings(derandomize=True, database=None, deadline=None, max_examples=200)
@given(value=PLAIN | st.lists(PLAIN, max_size=3))
def test_what_is_written_for_a_command_is_what_hydra_reads(value):
    found = OverridesParser.create().parse_override(f"key={written(value)}").value()
    for read, meant in zip(found, value, strict=True) if isinstance(value, list) else [(found, value)]:
        assert read == meant
        assert isinstance(read, type(meant) if not isinstance(meant, float) else (int, float))


def test_a_command_says_plain_values_plainly():
    assert [written(one) for one in (0.1, 1.0, 3, True, None, "otsu", ["a", 0.5], "true")] == [
        "0.1", "1", "3", "true", "null", "otsu", "[a,0.5]", '"true"',
    ]  # fmt: skip


def test_the_parts_of_an_override():
    assert [key_of(one) for one in ("pipeline=fg", "+pipeline=fg", "++a.b=c=d", "~trainer")] == [
        "pipeline", "pipeline", "a.b", "trainer",
    ]  # fmt: skip
    assert unescaped(r"fg_threshold=quantile\:0.9") == "fg_threshold=quantile:0.9"


def test_a_name_that_is_no_utf8_is_shown_as_its_bytes(tmp_path: Path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text('- "data.root=a\\uDCE9b\\\\udce9"\n')
    assert Run(tmp_path).overrides == [r"data.root=a\xe9b\udce9"]


@pytest.mark.parametrize(
    ("chunks", "understood"),
    [
        ([{"example_ids": ["a"], "stored": {"images": "images/0"}}], True),
        ([{"image_ids": ["a"], "stored": {"images": "images/0"}}], True),
        ([{"ids": ["a"], "stored": {}}], False),
        ([{"example_ids": ["a"]}], False),
        ([{"image_ids": ["a"], "STORED": {}}], False),
        ([{"example_ids": [1], "stored": {}}], False),
        ([{"example_ids": ["a"], "stored": {"images": 1}}], False),
        ({}, False),
    ],
)
def test_what_was_taken_from_the_store_is_understood_or_refused(tmp_path: Path, chunks: object, understood: bool):
    (tmp_path / "prepared.json").write_text(json.dumps({"chunks": chunks}))
    if understood:
        assert Run(tmp_path).prepared == chunks
    else:
        with pytest.raises(InputError, match=r"prepared\.json is not understood"):
            _ = Run(tmp_path).prepared


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (InputError("no\n  such"), "failed", "no such"),
        (ValueError(), "failed", "ValueError"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
    ],
)
def test_how_a_run_ended_stands_where_its_metrics_would(
    tmp_path: Path, error: BaseException, status: str, said: str
):
    run = Run(tmp_path / "of a sweep" / "0")
    run.fail(error)
    assert json.loads((run.folder / "metrics.json").read_text()) == {
        "identity": None, "status": status, "error": said, "metrics": {},
    }  # fmt: skip
    assert (run.outcome.status, run.outcome.error) == (status, said)
    run.begin()
    run.begin()  # there is nothing to forget
    assert not run.has_ended
    run.finish_without_metrics()
    assert run.outcome.status == "finished"


def test_a_full_disk_has_no_room_for_why_a_run_failed(tmp_path: Path):
    (tmp_path / "0").touch()  # no folder can be made there
    Run(tmp_path / "0").fail(InputError("no room"))
    assert (tmp_path / "0").read_bytes() == b""


def test_a_run_is_finished_with_a_note_and_taken_over_drawings(tmp_path: Path):
    given = Run(write_run(tmp_path / "given", {}, [0.5] * 4))
    run = Run(tmp_path / "of a sweep" / "0")
    run.finish(
        identity="x",
        metrics={},
        per_image=given.images.reset_index(),
        predictions=given.predictions.reset_index(),
        prepared=[],
        provenance=given.provenance,
        upper_bound=False,
        note="few clusters",
    )
    assert json.loads((run.folder / "metrics.json").read_text())["note"] == "few clusters"
    for folder, content in ((run.folder, b"new"), (tmp_path / "1", b"old")):
        (folder / "figures").mkdir(parents=True)
        (folder / "figures" / "worst.png").write_bytes(content)
    other = Run(tmp_path / "1")
    other.reuse(run)
    assert other.drawings()["worst"].read_bytes() == b"new"


def test_what_was_left_out_is_a_table(tmp_path: Path):
    Run(tmp_path).keep_problems([(tmp_path / "a\x1b.png", "is damaged", "replace it")])
    (row,) = pd.read_csv(tmp_path / "problems.csv").to_dict("records")
    assert row == {"file": f"{tmp_path}/a\\x1b.png", "what": "is damaged", "hint": "replace it"}
    assert [path.name for path in tmp_path.iterdir()] == ["problems.csv"]


def test_an_experiments_job_is_run_alone_by_its_command(tmp_path: Path):
    run = Run(write_run(tmp_path / "0", {"experiment": "fixes", "pipeline": "fg"}, [0.5] * 4))
    assert run.command == "python run.py experiment=fixes pipeline=fg hydra.mode=RUN"
