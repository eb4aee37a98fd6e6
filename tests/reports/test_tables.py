"""The LaTeX table of a sweep."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from gradsam_exp.reports.sweep import collect_runs, with_comparison
from gradsam_exp.reports.tables import as_latex, latex_text
from tests.reports.finished_runs import write_run

EVIL = r"50% & a_b #1 {x} \end~^ $y$"


@pytest.fixture
def table(tmp_path: Path) -> str:
    write_run(tmp_path / "0", {"data.root": EVIL}, [0.5, 0.6, 0.7, 0.8], class_name="50% off")
    write_run(tmp_path / "1", {"data.root": "[plain]"}, [0.5, 0.5, 0.6, 0.7], class_name="50% off")
    write_run(tmp_path / "2", {"data.root": "missing"}, None, error="100% wrong\nreally")
    return as_latex(with_comparison(tmp_path, collect_runs(tmp_path)))


def test_the_table_has_booktabs_rules_and_equal_columns(table: str):
    lines = table.splitlines()
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert lines.count(rule) == 2
    rows = [line for line in lines if line.endswith(r"\\")]
    assert len(rows) == 4 + 3
    first, second = rows[:4], rows[4:]
    for part in (first, second):
        columns = {row.replace(r"\&", "").count("&") for row in part}
        assert len(columns) == 1, "every row has as many cells as the heading"
    assert r"$-$0.075 [" in second[-1]
    assert "% job 2: 100% wrong really" in lines, "what failed is a comment"


def test_what_latex_reads_as_commands_is_text():
    text = latex_text(EVIL)
    assert text == r"50\% \& a\_b \#1 \{x\} \textbackslash{}end\textasciitilde{}\textasciicircum{} \$y\$"
    assert latex_text("2.5e-11") == r"$2.5\times10^{-11}$"
    assert latex_text("-0.1 layer2.-1 a-1") == "$-$0.1 layer2.-1 a-1"
    assert latex_text("[a]") == "{[a]}", "after a line's end it would be an argument"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here: sweep.tex was not compiled")
def test_latex_compiles_it(table: str, tmp_path: Path):
    text = "\\documentclass{article}\\usepackage[utf8]{inputenc}\\usepackage{booktabs}\\begin{document}\\tiny\n"
    (tmp_path / "t.tex").write_text(text + table + "\\end{document}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
