"""Names with escape sequences, quotes, HTML, line breaks or bytes that are not UTF-8 are shown, and do nothing."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from rich.table import Table

from gradsam_exp.classifiers.checkpoints import save_classifier
from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.console import _Terminal
from gradsam_exp.errors import InputError, harmless
from gradsam_exp.reports.tables import as_latex, as_markdown
from gradsam_exp.runs.comparison import Runs
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.sweep import collect_runs
from tests.reports.finished_runs import write_run

ESCAPE = "\x1b]0;owned\x07\x1b[2J"
NAMES = {
    "escape": f"a{ESCAPE}",
    "html": "<img src=x onerror=alert(1)>",
    "quotes": 'it\'s "5 $ & 6 $" {}`,%#_|',
    "lines": "one\ngradsam_exp: all is well\rtwo",
    "bytes": os.fsdecode(b"n\xff\xfe"),
    "turned": "\u202egnp.exe",
    "markup": "[red]:boom:[bold]",
}
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def test_what_acts_is_an_escape_and_what_is_shown_stays():
    assert harmless("é 日本 👩‍🚀 \\ <b>") == "é 日本 👩‍🚀 \\ <b>"
    assert harmless(NAMES["escape"]) == r"a\x1b]0;owned\x07\x1b[2J"
    assert harmless("a\nb\tc\u2028") == r"a\x0ab\x09c\u2028"
    assert harmless("a\nb\tc\x9b", lines=True) == "a\nb\tc\\x9b"
    assert harmless(NAMES["bytes"]) == r"n\xff\xfe"
    assert harmless(NAMES["turned"]) == r"\u202egnp.exe"
    assert harmless(harmless(NAMES["lines"])) == harmless(NAMES["lines"])


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_terminal_gets_colours_from_us_alone(name: str):
    terminal = _Terminal(file=io.StringIO(), force_terminal=True, markup=False, emoji=False, width=200)
    table = Table(title=name)
    table.add_column(name)
    table.add_row(name)
    terminal.print(table)
    terminal.print(name, style="bold")
    shown = terminal.file.getvalue().encode()  # which fails for what is no Unicode
    assert not RAW.search(re.sub(r"\x1b\[[\d;]*m", "", shown.decode()))


def hostile_data(root: Path) -> list[str]:
    """Images with masks, each in a class and under a name that is hostile; gives the classes' names."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        for number, name in enumerate(NAMES.values()):
            folder = root / kind / "test" / name
            folder.mkdir(parents=True)
            pixels = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            mask = np.zeros((24, 32), dtype=np.uint8)
            mask[4:12, 4 : 12 + number] = 255
            Image.fromarray(pixels if kind == "images" else mask).save(folder / f"{name}.png")
    return list(NAMES.values())


def acting(folder: Path) -> Iterator[str]:
    """Files of text in which something acts, or which are no UTF-8."""
    for path in folder.rglob("*"):
        if path.suffix in {".log", ".json", ".csv", ".md", ".tex", ".html", ".txt", ".yaml"} and path.is_file():
            if "wandb" in path.parts:
                continue
            text = path.read_bytes().decode()
            if path.suffix != ".html" and RAW.search(text):  # plotly's own program has some in its strings
                yield path.name


@pytest.mark.slow
def test_a_sweep_on_hostile_names_shows_them_all_and_ends_well(run, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("gradsam_exp.reports.sweep.write_curves", lambda *_: None)
    names = hostile_data(tmp_path / f"data {NAMES['bytes']}")
    torch.manual_seed(0)
    weights = save_classifier(ImageClassifier("resnet18", names), tmp_path / "classifier.safetensors")
    data = ("data=folder", f"data.root='{tmp_path / 'data '}{NAMES['bytes']}'", f"model.checkpoint={weights}")
    done = run(
        "-m", "pipeline=fg,argmax", *data, "logger=wandb", "logger.images=2", "task.figures=true", "limit=7"
    )
    assert done.code == 0, done.err
    assert "Traceback" not in done.out + done.err
    assert "was not drawn" not in done.err
    assert "W&B" not in done.err
    assert not RAW.search(done.out + done.err)
    assert list(acting(done.folder)) == []
    table = pd.read_parquet(done.runs[0] / "per_image.parquet")
    assert sorted(table["class_name"]) == sorted(map(harmless, names))
    (page,) = done.folder.rglob("report.html")
    text = page.read_text()
    assert "<img src=x" not in text
    content = json.loads(re.search(r'<script[^>]*id="content"[^>]*>(.*?)</script>', text, re.DOTALL)[1])
    assert sorted(content["sets"][0]["classes"]) == sorted(map(harmless, names))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_report_shows_what_others_have_written(tmp_path: Path, name: str):
    """A job's folder, its overrides, its error and its metrics may all be hostile."""
    write_run(tmp_path / "0", {"pipeline": name}, [0.5] * 4)
    other = write_run(tmp_path / "1", {"pipeline": "fg"}, [0.6] * 4)
    content = json.loads((other / "metrics.json").read_text())
    (other / "metrics.json").write_text(json.dumps({**content, "status": "failed", "error": name}))
    runs = Runs(tmp_path)
    table = collect_runs(runs)
    for text in (table.to_csv(), as_markdown(table, table[:0], {}), as_latex(table, table[:0], {})):
        assert not RAW.search(text)
        text.encode()
    assert table["error"].tolist()[1] == harmless(name.replace("\n", " "))
    assert "<img" not in as_markdown(table, table[:0], {})


def test_an_error_that_names_a_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = Run(tmp_path / "run")
    run.fail(InputError(f"{NAMES['escape']}\x9b31m {NAMES['bytes']} is broken"))
    assert not RAW.search((tmp_path / "run" / "metrics.json").read_text())
    assert run.outcome.error == r"a\x1b]0;owned\x07\x1b[2J\x9b31m n\xff\xfe is broken"
    run.keep_problems([(Path(NAMES["bytes"]), "is broken", NAMES["escape"])])
    assert not RAW.search((tmp_path / "run" / "problems.csv").read_text())
