"""The report: after a sweep, for any runs, and in a browser."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gradsam_exp.classifiers.checkpoints import save_classifier
from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.reports.page import write_page
from gradsam_exp.runs.comparison import Runs
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.sweep import collect_runs
from tests import preloaded
from tests.e2e.conftest import ROOT
from tests.faults.counts import only_soaking
from tests.reports.finished_runs import write_run

EVIL = "<script>document.title='evil'<"  # a class, and so the start of its images' names
CLASSES = (EVIL, "plain")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, random_weights: list[str]) -> Path:
    """A finished sweep on photographs of two sizes: two jobs are the same run, one failed."""
    folder = tmp_path_factory.mktemp("sweep")
    rng = np.random.default_rng(0)
    for number in range(12):
        name = CLASSES[number % 2]
        wide, high = (400, 300) if number < 2 else (64, 48)
        for tree in ("images", "masks"):
            (folder / "data" / tree / "test" / name).mkdir(parents=True, exist_ok=True)
        mask = np.zeros((high, wide), dtype=np.uint8)
        mask[high // 4 : high // 2, wide // 4 : wide // 2] = 255
        noise = rng.integers(0, 256, (high, wide, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "data" / "images" / "test" / name / f"{number:02}.png")
        Image.fromarray(mask).save(folder / "data" / "masks" / "test" / name / f"{number:02}.png")
    torch.manual_seed(0)
    classifier = save_classifier(ImageClassifier("resnet18", sorted(CLASSES)), folder / "classifier.safetensors")
    given = ["-m", "pipeline=fg,fgbg", "bg_threshold=0.1,0.9", "logger=none", "data=folder", random_weights[1]]
    given += [
        f"data.root={folder / 'data'}",
        f"output_root={folder / 'outputs'}",
        f"model.checkpoint={classifier}",
    ]
    preloaded.ended(preloaded.start("run.py", [*given, f"hydra.sweep.dir={folder / 'sweep'}"], folder))
    return folder / "sweep"


@pytest.mark.slow
def test_a_sweep_leaves_a_report_even_if_a_job_failed(sweep: Path):
    left = {path.name for path in sweep.iterdir()}
    assert {"report.html", "sweep.csv", "sweep.md", "sweep.tex", "sweep.png", "sweep.pdf"} <= left
    text = (sweep / "report.html").read_text()
    assert text.count("data:image/webp;base64,") == 12 + 12, "each image and each heatmap once"
    assert (sweep / "report.html").stat().st_size < 6_000_000


@pytest.mark.slow
def test_a_report_of_any_runs(sweep: Path, run):
    store = f"store.root={sweep.parent / 'outputs' / '.store'}"
    done = run("task=report", f"runs={sweep}/*", "task.baseline=2", store)
    assert done.code == 0, done.err
    (page,) = done.folder.rglob("report.html")
    assert "data:image/webp" in page.read_text()
    assert (page.parent / "sweep.tex").is_file()
    assert re.search(r"2\s+fgbg.*baseline", done.out)
    wrong = run("task=report", f"runs={sweep}", "task.baseline=3")
    assert wrong.err.strip() == "gradsam_exp: task.baseline=3 is no finished run. Known: 0, 2"


def test_a_report_of_nothing_is_refused_in_one_line(run, tmp_path: Path):
    assert run("task=report").err.startswith("gradsam_exp: runs is missing: give the folder")
    assert "no finished runs there" in run("task=report", f"runs={tmp_path}").err


class Opened:
    """A page, with all it complained about or asked for."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.page.on("console", lambda m: m.type in ("error", "warning") and self.problems.append(m.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        local = ("data:", "blob:", file.as_uri())
        self.page.on("request", lambda r: r.url.startswith(local) or self.problems.append(r.url))
        self.page.goto(file.as_uri())
        self.page.wait_for_selector(".tile, #missing li")

    def texts(self, selector: str) -> list[str]:
        return [text.strip() for text in self.page.locator(selector).all_inner_texts()]

    def runs(self) -> list[str]:
        return [text.split()[0] for text in self.texts("#comparison tbody tr:visible > th")]


def watched(browser: Any, file: Path) -> Iterator[Opened]:
    page = Opened(browser, file, viewport={"width": 1200, "height": 900})
    yield page
    problems = [text for text in page.problems if "GL Driver Message" not in text]
    page.context.close()
    assert problems == [], "no errors in the console, nothing asked for"


@pytest.fixture
def opened(chromium: Any, sweep: Path) -> Iterator[Opened]:
    yield from watched(chromium, sweep / "report.html")


@pytest.fixture(scope="module")
def untouched(chromium: Any, sweep: Path) -> Iterator[Opened]:
    """For tests that leave the page as it is."""
    yield from watched(chromium, sweep / "report.html")


@pytest.mark.slow
def test_the_table_sorts_and_filters_by_keyboard(opened: Opened):
    page = opened.page
    assert opened.runs() == ["0", "2"], "3 failed, and is folded away"
    page.get_by_role("button", name="pipeline").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert opened.runs() == ["2", "0"]
    assert page.locator("#comparison th[aria-sort]").get_attribute("aria-sort") == "descending"
    cells = page.locator("#comparison tbody td:nth-child(2)[data-value]").all()
    by_value = sorted(
        (float(cell.get_attribute("data-value")), cell.evaluate("cell => cell.parentElement.dataset.run"))
        for cell in cells
    )
    page.get_by_role("button", name="mIoU", exact=True).click()
    rows = page.locator("#comparison tbody tr").evaluate_all("rows => rows.map(r => r.dataset.run)")
    assert rows[:2] == [number for _, number in by_value]
    for words, runs in (
        ("FGBG 0.1", ["2"]),
        ("fg", ["0"]),  # not fgbg: it is a word of its own
        ("bg_threshold=0.1", ["0", "2"]),  # 0 is two jobs, of which one has it
        ("fgb", ["2"]),  # while it is typed
        ("0.945", []),  # no result
        ("bg_threshold>0.1", ["0"]),  # of its two jobs one has 0.9
        ("bg_threshold<=0.1 fgbg", ["2"]),
        ("miou>1", []),
        ("delta<0 delta>0", []),
    ):
        page.fill("#filter", words)
        assert sorted(opened.runs()) == runs, words
    page.fill("#filter", "fgbg 0.1")
    assert opened.texts("#shown") == ["1 of 2 runs"]
    assert page.evaluate("byId('boxes').data.map((box) => box.name)") == ["2 fgbg bg_threshold=0.1"], (
        "charts follow"
    )
    assert page.evaluate("byId('knob-0').data.flatMap((trace) => trace.x)") == ["fgbg"]
    assert "1 run did not finish" in page.locator("#failed summary").inner_text()
    assert "must be below fg_threshold" in page.locator("td.error").text_content()
    assert "×2" in page.locator("tr[data-run='0'] th").text_content()


@pytest.mark.slow
def test_another_baseline_turns_the_comparison_round(opened: Opened):
    def numbers(run: int) -> tuple[float, list[str]]:
        row = opened.page.locator(f"#comparison tr[data-run='{run}']")
        counts = row.locator(".counts").text_content()
        return float(row.locator(".delta").get_attribute("data-value")), counts.split(" / ")

    delta, (wins, ties, losses) = numbers(1)
    assert opened.page.locator("#comparison tr[data-run='0'] .delta").text_content() == "baseline"
    opened.page.select_option("#baseline", "1")
    assert numbers(0) == (-delta, [losses, ties, wins])
    assert opened.page.locator("#comparison tr[data-run='1'] .delta").text_content() == "baseline"
    opened.page.get_by_role("button", name="Δ mIoU").click()
    opened.page.select_option("#baseline", "0")
    column = opened.page.locator("#comparison tbody tr .delta").evaluate_all(
        "cells => cells.map(c => c.dataset.value)"
    )
    assert column[0] == str(delta), "it stays sorted"
    assert opened.page.evaluate("holm([0.01, 0.04, null, 0.03])") == pytest.approx([0.03, 0.06, None, 0.06])


@pytest.mark.slow
def test_a_point_of_the_scatter_shows_its_image(opened: Opened):
    page = opened.page
    assert opened.texts("#panels figcaption")[:3] == ["image", "heatmap", "overlay"]
    assert page.locator("#panels canvas").count() == 6
    points = page.evaluate("byId('scatter').data.slice(0, 3).flatMap((t) => t.customdata)")
    first = int(page.locator("#image").input_value())
    apart = "Math.abs(chosen.a.iou[k] - chosen.b.iou[k])"
    assert first == max(points, key=lambda k: page.evaluate(f"((k) => {apart})({k})")), "where A and B differ most"
    page.evaluate("""() => {  // enlarged, as a reader would, so that points do not hide one another
        const range = (axis) => {
            const values = byId("scatter").data.slice(0, 3).flatMap((trace) => trace[axis]);
            return [Math.min(...values) - 0.001, Math.max(...values) + 0.001];
        };
        return Plotly.relayout("scatter", { "xaxis.range": range("x"), "yaxis.range": range("y") });
    }""")
    at = next(at for at, k in enumerate(points) if k != first)
    page.locator("#scatter .points path.point").nth(at).click(force=True)
    page.wait_for_function(f"Number(byId('image').value) === {points[at]}")
    name = page.evaluate(f"report.sets[0].ids[{points[at]}]")
    assert page.locator("#image option:checked").inner_text().startswith(name)
    ring = page.evaluate("[byId('scatter').data[3].x[0], byId('scatter').data[3].y[0]]")
    assert ring == page.evaluate(f"[chosen.a.iou[{points[at]}], chosen.b.iou[{points[at]}]]"), "it is marked"
    page.locator("#next").focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"Number(byId('image').value) !== {points[at]}")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(f"Number(byId('image').value) === {points[at]}")


@pytest.mark.slow
@only_soaking
def test_the_command_below_a_picture_opens_it_in_the_explorer(opened: Opened):
    page = opened.page
    page.select_option("#run-a", "1")
    page.select_option("#run-b", "0")
    page.locator("#explore summary").click()
    assert page.locator("#explore-b").is_visible()
    page.locator(".tile").nth(1).click()
    name = page.evaluate("report.sets[0].ids[chosen.image]")
    assert EVIL in name, "which has to be quoted"
    command = shlex.split(page.locator("#explore-a code").inner_text())
    page.locator("#explore-a button").click()
    page.wait_for_function("document.querySelector('#explore-a [role=status]').textContent === 'copied'")
    arguments = [sys.executable, *command[1:], "task.open_browser=false"]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as program:
        try:
            assert program.stdout is not None
            lines = iter(program.stdout.readline, "")
            address = next((line.strip() for line in lines if line.startswith("http://")), None)
            assert address is not None, "the command was refused"
            explorer = opened.context.new_page()
            explorer.goto(address)
            explorer.locator("#seen b").wait_for(timeout=60_000)
            assert explorer.locator("#seen b").inner_text() == name
            assert "pipeline=fgbg bg_threshold=0.1" in explorer.locator("#command").inner_text()
        finally:
            program.kill()
    page.select_option("#run-b", "1")
    page.wait_for_function("byId('explore-b').hidden")


@pytest.mark.slow
def test_an_address_shows_what_its_reader_saw(opened: Opened):
    page = opened.page
    page.select_option("#baseline", "1")
    page.select_option("#run-a", "1")
    page.select_option("#order", "best")
    page.locator("#next").click()
    page.fill("#filter", "fgbg")
    page.get_by_role("button", name="mIoU", exact=True).click()
    page.locator("#columns summary").click()
    page.locator("#columns input").first.uncheck()
    read = """() => [...["baseline", "run-a", "run-b", "image", "order", "filter"].map((id) => byId(id).value),
        byId("shown").textContent, headings[1].hidden, headings[1].getAttribute("aria-sort")]"""
    before = page.evaluate(read)
    assert before[-2:] == [True, "ascending"]
    page.reload()
    page.wait_for_selector(".tile")
    assert page.evaluate(read) == before


@pytest.mark.slow
def test_masks_are_decoded_as_they_were_encoded(untouched: Opened):
    differences = untouched.page.evaluate("""() => {
        const { pictures } = report.sets[0];
        return pictures.truths.map((text, k) => {
            const [width, height] = pictures.sizes[k];
            const mask = decodeMask(text, width, height);
            const inside = (x, y) => x >= width / 4 && x < width / 2 && y >= height / 4 && y < height / 2;
            const wrong = (value, at) => value !== Number(inside(at % width, Math.floor(at / width)));
            return mask.filter(wrong).length;
        });
    }""")
    assert differences == [0] * 12


@pytest.mark.slow
def test_runs_and_classes_are_chosen_and_names_stay_text(opened: Opened):
    page = opened.page
    assert opened.texts("#class option") == ["all", EVIL, "plain"]
    page.select_option("#class", label=EVIL)
    page.wait_for_function("document.querySelectorAll('.tile').length === 6")
    assert all(EVIL in text for text in opened.texts(".tile"))
    page.select_option("#order", "best")
    page.wait_for_timeout(200)
    ious = [float(re.search(r"A ([\d.]+)", text)[1]) for text in opened.texts(".tile")]
    assert ious == sorted(ious, reverse=True)
    page.select_option("#run-b", "0")
    page.wait_for_function("document.querySelectorAll('#panels canvas').length === 5")
    page.locator(".tile").nth(2).focus()
    page.keyboard.press("Enter")
    assert page.title() != "evil"
    assert page.locator("#viewer script, #gallery script").count() == 0


@pytest.mark.slow
def test_the_command_that_makes_a_run_again_is_copied(opened: Opened, sweep: Path):
    opened.page.locator("#comparison tbody th a").nth(1).click()
    details = opened.page.locator("#run-1")
    opened.page.locator("#run-1[open]").wait_for()  # the browser tells the page of the link a moment later
    assert details.get_attribute("open") is not None, "a link to a run opens it"
    details.get_by_role("button", name="copy").click()
    opened.page.wait_for_function("document.querySelector('#run-1 [role=status]').textContent === 'copied'")
    assert details.locator("code").inner_text().startswith("python run.py pipeline=fgbg bg_threshold=0.1 ")
    assert "git commit" in details.inner_text()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), pytest.param(1600, "dark", marks=only_soaking)])
def test_any_width_in_light_and_dark(chromium: Any, sweep: Path, width: int, scheme: str):
    opened = Opened(chromium, sweep / "report.html", viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
    red, *_ = map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor")))
    assert (red < 60) == (scheme == "dark")
    page.locator("#parallel").scroll_into_view_if_needed()
    page.wait_for_function("byId('parallel').childElementCount > 0 || byId('parallel').textContent")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="NO AXE: the page was not checked")
    found = axe.Axe().run(page).response["violations"]
    assert [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found] == []
    page.emulate_media(media="print", color_scheme="light")
    assert page.pdf().startswith(b"%PDF")
    assert [text for text in opened.problems if "GL Driver Message" not in text] == []
    opened.context.close()


@pytest.mark.slow
def test_charts_follow_the_window_and_offer_no_upload(chromium: Any, sweep: Path):
    opened = Opened(chromium, sweep / "report.html", viewport={"width": 1600, "height": 900})
    page = opened.page
    page.locator("#parallel").scroll_into_view_if_needed()
    drawn = "[...document.querySelectorAll('.js-plotly-plot')]"
    names = ["2 fgbg bg_threshold=0.1", "0 fg bg_threshold=0.1, 0.9"]
    for width, shown in ((800, names), (400, ["2", "0"]), (1200, names)):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function(f"{drawn}.every((chart) => chart.layout.width === chart.clientWidth)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
        assert sorted(page.evaluate("byId('forest').data[0].y")) == sorted(shown), "short where there is no room"
        heights = page.evaluate(f"{drawn}.map((c) => [c.clientHeight, c.layout.height])")
        assert all(place == chart for place, chart in heights)
    assert page.locator(".modebar-btn").count() == 0
    assert page.evaluate(f"{drawn}.some((c) => c._context.showSendToCloud || c._context.plotlyServerURL)") is False
    charts = page.locator(".chart.js-plotly-plot")
    assert charts.count() > 3
    assert all(charts.nth(k).get_attribute("aria-label") for k in range(charts.count()))
    assert "form-action 'none'" in page.content()
    opened.context.close()


@pytest.mark.slow
def test_a_run_far_above_the_others_stays_on_the_axis_of_miou_and_seconds(untouched: Opened):
    low, high = untouched.page.evaluate("paretoRange([0.38, 0.39, 0.37, 0.36, 0.385, 0.885])")
    assert low < 0.36
    assert high > 0.885, "an upper bound in a crowd"
    low, high = untouched.page.evaluate("paretoRange([0.95, 0.96, 0.955, 0.958, 0.137])")
    assert 0.9 < low < 0.95, "an arrow stands for it"
    assert high > 0.96


@pytest.mark.slow
def test_a_scrolled_table_is_printed_in_order(untouched: Opened):
    first = untouched.page.locator("#comparison tbody th").first
    assert first.evaluate("cell => getComputedStyle(cell).position") == "sticky"
    untouched.page.emulate_media(media="print")
    assert first.evaluate("cell => getComputedStyle(cell).position") == "static"
    assert not untouched.page.locator("#filter").is_visible()
    untouched.page.emulate_media(media="null")


@pytest.mark.slow
def test_prompts_at_the_edge_of_an_image_are_whole(untouched: Opened):
    drawn = untouched.page.evaluate("""async () => {
        const canvas = await canvasOf([40, 40], 40, "", [layers.prompts([[0, 0], "0", []])], MARGIN);
        const wide = canvas.width;
        const alpha = canvas.getContext("2d").getImageData(0, 0, wide, wide).data.filter((_, k) => k % 4 === 3);
        const inRow = (y) => alpha.slice(y * wide, (y + 1) * wide).filter((value) => value > 0).length;
        return [inRow(0), inRow(MARGIN - 3)];
    }""")
    assert drawn[0] == 0, "nothing is cut off"
    assert drawn[1] > 0


@pytest.mark.slow
def test_runs_on_different_images(chromium: Any, tmp_path: Path):
    long = "first-of-two-sweeps-with-names"
    sweeps = [tmp_path / name / "2026-01-31_09-30-00-123456" for name in (long, "other")]
    ious = [0.5 + 3e-7, 0.6, 0.7 + 1e-12, 0.8]
    write_run(sweeps[0] / "0", {"pipeline": "fg", "bg_threshold": "0.1"}, [0.5, 0.6, 0.7, 0.9])
    write_run(sweeps[0] / "1", {"pipeline": "fgbg", "bg_threshold": "0.2"}, ious)
    write_run(sweeps[1] / "0", {"pipeline": "fg", "bg_threshold": "0.1"}, [0.3, 0.3, 0.4, 0.2], data="y")
    write_run(sweeps[1] / "1", {"pipeline": "oracle", "bg_threshold": "0.1"}, ious, data="y", bound=True)
    write_run(sweeps[1] / "2", {"pipeline": "fgbg", "bg_threshold": "0.2"}, ious, data="z")
    runs = Runs(tmp_path, (Run(path.parent) for path in sorted(tmp_path.rglob("metrics.json"))))
    table = collect_runs(runs)
    opened = Opened(
        chromium, write_page(runs, table, tmp_path / "report.html"), viewport={"width": 390, "height": 800}
    )
    page = opened.page
    in_short = [f"{name}/09-30-00/{k}" for name, k in ((long, 0), (long, 1), ("other", 0), ("other", 1))]
    assert opened.runs()[:4] == [*in_short[:3], f"{in_short[3]}*"]
    assert page.locator("#comparison tbody th").first.bounding_box()["width"] <= 0.4 * 390
    for baseline, compared in (("0", in_short[:2]), ("2", [in_short[2], f"{in_short[3]}*"])):
        page.select_option("#baseline", baseline)
        assert sorted(page.evaluate("byId('forest').data.flatMap((trace) => trace.y)")) == sorted(compared)
    page.select_option("#baseline", "4")
    assert not page.locator("#forest").is_visible(), "there is no other run on its images"
    counts = page.locator("#comparison tr[data-run='1'] .counts").text_content()
    assert counts == "1 / 2 / 1"
    assert [text[-3:] for text in page.evaluate("byId('scatter').data.slice(0, 3).map((t) => t.name)")] == [
        "(1)", "(1)", "(2)",
    ]  # fmt: skip
    for words, number in ((in_short[1], 1), ("bound", 1), ("bg_threshold=0.2 fgbg", 2), ("0.8", 0)):
        page.fill("#filter", words)
        assert len(opened.runs()) == number, words
    page.select_option("#run-b", page.locator("#run-a").input_value())
    page.wait_for_function("byId('of-b').hidden")
    assert opened.problems == []
    opened.context.close()


@pytest.mark.slow
def test_a_link_opens_a_run_again(opened: Opened):
    link, details = opened.page.locator("#comparison tbody th a").first, opened.page.locator("#run-0")
    for _ in range(2):
        link.click()
        opened.page.wait_for_function("byId('run-0').open")
        details.locator("summary").click()
        assert details.get_attribute("open") is None


@pytest.mark.slow
def test_without_true_masks_there_are_pictures_all_the_same(chromium: Any, run, sweep: Path, tmp_path: Path):
    shutil.copytree(sweep.parent / "data" / "images", tmp_path / "data" / "images")
    classifier = f"model.checkpoint={sweep.parent / 'classifier.safetensors'}"
    done = run("-m", "pipeline=fg,fgbg", "data=folder", f"data.root={tmp_path / 'data'}", classifier)
    assert done.code == 0, done.err
    (page,) = done.folder.rglob("report.html")
    opened = Opened(chromium, page)
    assert opened.page.locator("#panels canvas").count() == 5, "no truth"
    assert opened.page.locator(".tile").count() == 8
    assert opened.texts("#comparison thead th") == [
        "run",
        "pipeline",
        "accuracy",
        "macro accuracy",
        "heatmap sparsity",
    ]
    assert opened.problems == []
    opened.context.close()


@pytest.mark.slow
@only_soaking
def test_runs_whose_images_are_gone_are_compared_without(chromium: Any, sweep: Path, run, tmp_path: Path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(sweep, moved)
    for path in moved.rglob("config.yaml"):
        path.write_text(path.read_text().replace(str(sweep.parent), str(tmp_path / "gone")))
    done = run("task=report", f"runs={moved}")
    assert done.code == 0, done.err
    (page,) = done.folder.rglob("report.html")
    assert not (tmp_path / "gone").exists()
    with chromium.new_context() as context:
        opened = context.new_page()
        opened.goto(page.as_uri())
        opened.wait_for_selector("#missing li")
        assert "not in the store" in opened.locator("#missing").inner_text()
        assert "not in this page" in opened.locator("#panels").inner_text()
        assert opened.locator("#comparison tbody tr").count() == 2
