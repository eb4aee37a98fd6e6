"""A sweep's tables: in Markdown, for LaTeX, in the terminal."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from gradsam_exp.console import console
from gradsam_exp.metrics.heatmaps import EnergyInMask, Sparsity
from gradsam_exp.reports.sweep import summarize_sweep
from gradsam_exp.reports.tables import as_latex, as_markdown, latex_text, print_tables, varied_columns
from gradsam_exp.runs.comparison import Runs
from gradsam_exp.runs.sweep import about, collect_runs, with_comparison
from tests.reports.finished_runs import facts_of, write_run

EVIL = r"50% & a_b #1 {x} \end~^ $y$"


@pytest.fixture
def table(tmp_path: Path) -> str:
    write_run(tmp_path / "0", {"data.root": EVIL}, [0.5, 0.6, 0.7, 0.8], class_name="50% off")
    write_run(tmp_path / "1", {"data.root": "[plain]"}, [0.5, 0.5, 0.6, 0.7], class_name="50% off")
    write_run(tmp_path / "2", {"data.root": "missing"}, None, error="100% wrong\nreally")
    runs = Runs(tmp_path)
    table = with_comparison(runs, collect_runs(runs))
    return as_latex(table, pd.DataFrame(), runs.metric_facts(table))


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
@pytest.mark.slow
def test_latex_compiles_it(table: str, tmp_path: Path):
    text = "\\documentclass{article}\\usepackage[utf8]{inputenc}\\usepackage{booktabs}\\begin{document}\\tiny\n"
    (tmp_path / "t.tex").write_text(text + table + "\\end{document}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize("class_name", ["high", "low", "n"])
def test_a_class_of_any_name_leaves_the_other_columns_alone(tmp_path: Path, class_name: str):
    for k, pipeline in enumerate(("fg", "fgbg")):
        write_run(tmp_path / str(k), {"pipeline": pipeline}, [0.5, 0.6, 0.7, 0.8 + 0.1 * k], class_name=class_name)
    table = summarize_sweep(tmp_path)
    assert table.columns.is_unique
    assert (table["miou_low"][1], table["miou_high"][1], table["miou_n"][1]) == (0.5, 0.9, 4)
    assert table[f"class_miou:{class_name}"].tolist() == pytest.approx([0.65, 0.675])
    assert varied_columns(table) == ["pipeline"]
    assert f"| mIoU {class_name} |" in (tmp_path / "sweep.md").read_text()
    assert (tmp_path / "report.html").is_file()


def test_names_cannot_become_markup(tmp_path: Path):
    write_run(tmp_path / "0", {"root": "<b>"}, [0.5, 0.6, 0.7, 0.8], class_name="<img src=x> & |")
    write_run(tmp_path / "1", {"root": "plain"}, [0.5, 0.5, 0.6, 0.7], class_name="<img src=x> & |")
    write_run(tmp_path / "2", {"root": "plain"}, None, error="<script> is\nwrong")
    runs = Runs(tmp_path)
    table = with_comparison(runs, collect_runs(runs))
    text = as_markdown(table, pd.DataFrame(), runs.metric_facts(table))
    assert "| mIoU &lt;img src=x&gt; &amp; \\| |" in text
    assert "- job 2: &lt;script&gt; is wrong" in text
    assert "<" not in text


def test_brackets_are_printed_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for k, layer in enumerate(("[layer2.-1]", "[/layer3.-1] :star:")):
        write_run(tmp_path / str(k), {"explainer.target_layers": layer}, [0.5] * 4)
    runs = Runs(tmp_path)
    table = collect_runs(runs)
    print_tables(table, pd.DataFrame(), runs.metric_facts(table))
    printed = capsys.readouterr().out
    assert "[layer2.-1]" in printed
    assert "[/layer3.-1] :star:" in printed


def test_what_all_runs_have_in_common_stands_above(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for k, pipeline in enumerate(("fg", "fgbg")):
        config = {"split": "val", "pipeline": {"name": pipeline}, "data": {"name": "shapes"}}
        config["data"]["background"] = {"name": "mixed"}
        config |= {"explainer": {"name": "gradcam"}, "model": {"backbone": "resnet18"}, "sam": {"name": "compact"}}
        write_run(tmp_path / str(k), {"pipeline": pipeline}, [0.5] * 4, config=config)
    line = "val · 4 images · shapes, mixed · gradcam · resnet18 · compact"
    assert about(Runs(tmp_path), collect_runs(Runs(tmp_path))) == line
    summarize_sweep(tmp_path)
    assert capsys.readouterr().out.startswith(line + "\n")
    said = "pipeline hardly matters. Measured on 4 images."
    assert (tmp_path / "sweep.md").read_text().startswith(f"{line}\n\n**{said}**\n\n| knob |")
    assert f"% {line}" in (tmp_path / "sweep.tex").read_text().splitlines()


def test_pooled_runs_are_in_the_latex_as_well(tmp_path: Path):
    for k, (pipeline, seed) in enumerate((p, s) for p in ("fg", "fgbg") for s in "01"):
        write_run(tmp_path / str(k), {"pipeline": pipeline, "seed": seed}, [0.5, 0.6, 0.7, 0.8])
    summarize_sweep(tmp_path)
    text = (tmp_path / "sweep.tex").read_text()
    assert text.count(r"\toprule") == 4
    assert "sd between runs" in text


def on_photographs(run: Path, photographs: int) -> None:
    """Say that the run's four images are on so many photographs; 24 more images make enough of them."""
    images = pd.read_parquet(run / "per_image.parquet")
    images = pd.concat([images] * 7, ignore_index=True)
    images["example_id"] = images["image_id"] = [f"{k:02d}" for k in range(28)]
    images["group"] = [f"photograph {k % photographs}" for k in range(28)]
    images.to_parquet(run / "per_image.parquet")


def test_tables_and_page_say_over_which_units_intervals_are_and_what_p_means(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for k, (data, photographs) in enumerate((("x", 14), ("x", 14), ("y", 2))):
        on_photographs(
            write_run(tmp_path / str(k), {"k": str(k)}, [0.5, 0.6, 0.7, 0.8 + k / 10], data=data), photographs
        )
    summarize_sweep(tmp_path)
    texts = [capsys.readouterr().out, *((tmp_path / f"sweep.{kind}").read_text() for kind in ("md", "tex"))]
    page = (tmp_path / "report.html").read_text()
    for text in (*texts, page):
        many = (
            "n the images of job 0, intervals and p are over 14 independent units: 28 of the 28 images are on 14"
        )
        assert many in text
        assert (
            "n the images of job 2, 28 of the 28 images are on only 2 photographs: intervals and p are over images"
            in text
        )
        assert "on the images of job 1" not in text, "they are those of job 0"
    for text in texts:
        assert "sign-flip permutation test" in text
    assert "p: sign-flip test of the mean difference" in page


def test_where_units_are_images_nothing_is_said_of_them(tmp_path: Path):
    for k in range(2):
        write_run(tmp_path / str(k), {"k": str(k)}, [0.5] * 4)
    summarize_sweep(tmp_path)
    assert "intervals and p are" not in (tmp_path / "sweep.md").read_text()


def heat(mean: float) -> dict[str, object]:
    """What ``metrics.json`` says of the energy in the mask."""
    return facts_of(EnergyInMask) | {"mean": mean, "ci95": [mean - 0.1, mean + 0.1]}


def test_metrics_of_heatmaps_have_a_table_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for k, (explainer, mean) in enumerate((("gradcam", 0.25), ("layercam", 0.375))):
        more = {"energy_in_mask": heat(mean), "sparsity": facts_of(Sparsity)}
        write_run(tmp_path / str(k), {"explainer": explainer}, [0.5, 0.6, 0.7, 0.8], more=more)
    summarize_sweep(tmp_path)
    markdown, latex = ((tmp_path / f"sweep.{kind}").read_text() for kind in ("md", "tex"))
    assert "| job | explainer | mIoU |\n" in markdown
    assert "| job | explainer | energy in mask |\n" in markdown, "the sparsity is the same in all runs"
    assert "| 1 | layercam | 0.375 [0.275, 0.475] |\n" in markdown
    assert r"job & explainer & energy in mask \\" in latex
    printed = capsys.readouterr().out
    assert printed.count("energy in mask") == 1
    assert "0.375" in printed
    assert "[0.275" not in printed, "the interval would make it too wide"


def test_heatmaps_that_are_the_same_in_all_runs_have_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for k, pipeline in enumerate(("fg", "fgbg")):
        write_run(tmp_path / str(k), {"pipeline": pipeline}, [0.5] * 4, more={"energy_in_mask": heat(0.25)})
    summarize_sweep(tmp_path)
    for text in (capsys.readouterr().out, *((tmp_path / f"sweep.{kind}").read_text() for kind in ("md", "tex"))):
        assert "energy in mask" not in text
    assert "energy_in_mask" in (tmp_path / "sweep.csv").read_text()


def test_a_run_that_does_not_say_what_its_metrics_are_has_their_names(tmp_path: Path):
    for k, pipeline in enumerate(("fg", "fgbg")):
        run = write_run(tmp_path / str(k), {"pipeline": pipeline}, [0.5, 0.6, 0.7, 0.8], more={"sharpness": {}})
        content = json.loads((run / "metrics.json").read_text())
        metrics = {name: {key: v[key] for key in ("mean", "ci95", "n")} for name, v in content["metrics"].items()}
        (run / "metrics.json").write_text(json.dumps(content | {"metrics": metrics}))
    table = summarize_sweep(tmp_path)
    assert varied_columns(table) == ["pipeline"]
    assert "| job | pipeline | miou | sharpness |\n" in (tmp_path / "sweep.md").read_text()


def test_compared_within_a_segmenter_each_has_its_baseline_and_its_tables(tmp_path: Path):
    scores = {"compact": ([0.5, 0.6, 0.7, 0.8], [0.6, 0.7, 0.8, 0.9]), "vit_b": ([0.2] * 4, [0.1] * 4)}
    for number, (sam, pipeline) in enumerate((s, p) for s in scores for p in ("fg", "box")):
        ious = scores[sam][pipeline == "box"]
        given = {"sam": {"name": sam}, "pipeline": {"name": pipeline}}
        write_run(tmp_path / str(number), {"sam": sam, "pipeline": pipeline}, ious, config=given)
    together = summarize_sweep(tmp_path)
    assert "within" not in together
    assert together["baseline"].tolist()[1:] == ["0", "0", "0"]
    for path in tmp_path.glob("[0-9]/.hydra/config.yaml"):
        path.write_text(path.read_text() + "\ncompare_within: [sam]\n")
    table = summarize_sweep(tmp_path)
    assert table["within"].tolist() == ["compact", "compact", "vit_b", "vit_b"]
    assert table["baseline"].tolist()[1::2] == ["0", "2"]
    assert table["delta_miou"].tolist()[1::2] == pytest.approx([0.1, -0.1])
    assert table["p"].tolist()[1::2] == pytest.approx([0.125, 0.125]), "one comparison each: nothing to correct"
    text = (tmp_path / "sweep.md").read_text()
    said = "image by image on 4 images."
    assert [line for line in text.splitlines() if line.startswith("**")] == [
        f"**compact: pipeline=box wins: mIoU is higher by 0.100 [0.100, 0.100] than with fg, {said}**",
        f"**vit_b: pipeline=fg wins: mIoU is higher by 0.100 [0.100, 0.100] than with box, {said}**",
        "**compact: sweep**",
        "**compact: mIoU image by image, against the first run on the same images**",
        "**vit_b: sweep**",
        "**vit_b: mIoU image by image, against the first run on the same images**",
    ]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_tables_fit_any_terminal_and_break_no_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
):
    path = "/a/long/path/to/weights/of/a/segmenter.safetensors"
    for k in range(4):
        more = {"sparsity": {"mean": 0.25 + k / 100}, "accuracy": {"mean": 0.5 + k / 100}}
        knobs = {"fg_threshold": f".{k + 5}", "pipeline": "box_points", "sam.checkpoint": path + str(k % 2)}
        write_run(tmp_path / str(k), knobs, [0.5, 0.6, 0.7, 0.81 + k / 1000], more=more)
    monkeypatch.setattr(console, "_width", width)
    summarize_sweep(tmp_path)
    tables, *_ = capsys.readouterr().out.partition("p: how often")
    printed = tables.splitlines()
    assert max(map(len, printed)) <= width
    words = tables.split()
    for k in range(4):
        assert f".{k + 5}" in words, "as it was typed"
        assert f"{0.25 + k / 100:.3f}" in words
    assert tables.count("[0.500, 0.810]") == 1, "nor an interval"
    assert (width == 200) == (len([line for line in printed if line.startswith(" job ")]) == 2)


@pytest.mark.slow
def test_a_run_without_a_network_stands_in_the_table_of_each_segmenter(tmp_path: Path):
    """It loses 0.1 against compact's baseline, and gains 0.2 against the other's; Holm corrects two in each."""
    scores = {
        ("compact", "fg"): [0.5] * 4, ("compact", "box"): [0.6] * 4, ("vit_b", "fg"): [0.2] * 4,
        ("vit_b", "box"): [0.3] * 4, ("none", "threshold"): [0.4] * 4,
    }  # fmt: skip
    for number, ((sam, pipeline), ious) in enumerate(scores.items()):
        given = {"sam": {"name": sam}, "pipeline": {"name": pipeline}, "compare_within": ["sam"]}
        write_run(tmp_path / str(number), {"sam": sam, "pipeline": pipeline}, ious, config=given)
    table = summarize_sweep(tmp_path)
    assert table["job"].tolist() == ["0", "1", "2", "3", "4", "4"]
    assert table["within"].tolist() == ["compact", "compact", "vit_b", "vit_b", "compact", "vit_b"]
    assert table["baseline"].tolist()[4:] == ["0", "2"]
    assert table["delta_miou"].tolist()[4:] == pytest.approx([-0.1, 0.2])
    assert table["p"].tolist()[4:] == pytest.approx([0.25, 0.25]), "0.125 twice"
    text = (tmp_path / "sweep.md").read_text()
    assert text.count("| 4 | none | threshold |") == 4, "in the tables of means and of differences of both"
    assert (tmp_path / "report.html").is_file()
    first = tmp_path / "first"
    for number, sam in enumerate(("none", "compact", "vit_b")):
        given = {"sam": {"name": sam}, "compare_within": ["sam"]}
        write_run(first / str(number), {"sam": sam}, [0.5] * 4, config=given)
    assert summarize_sweep(first)["baseline"].dropna().tolist() == ["1", "2"], "it is no baseline, if it is first"
    alone = tmp_path / "alone"
    write_run(alone / "0", {"sam": "none"}, [0.5] * 4, config={"sam": {"name": "none"}, "compare_within": ["sam"]})
    write_run(alone / "1", {"sam": "x"}, [0.5] * 4, config={"sam": {"name": "gone"}, "compare_within": ["sam"]})
    assert "within" not in summarize_sweep(alone), "one table is all there is"
