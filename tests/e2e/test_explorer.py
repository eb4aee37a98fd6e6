"""The explorer in a browser: as a person uses it, on images with hostile names."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

from gradsam_exp.classifiers.checkpoints import save_classifier
from gradsam_exp.classifiers.classifier import ImageClassifier
from tests import preloaded
from tests.faults.counts import only_soaking

pytestmark = pytest.mark.slow

EVIL = "<img src=x onerror=document.title='evil'>"
CLASSES = (EVIL, "plain")
PATIENCE_MS = 120_000  # of a machine with other work


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, random_weights: list[str]) -> Iterator[Any]:
    """The program, and the address that it says."""
    folder = tmp_path_factory.mktemp("explorer")
    rng = np.random.default_rng(0)
    for number in range(6):
        name = CLASSES[number % 2]
        for tree in ("images", "masks"):
            (folder / "data" / tree / "test" / name).mkdir(parents=True, exist_ok=True)
        mask = np.zeros((48, 64), dtype=np.uint8)
        mask[12:36, 16:48] = 255
        noise = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "data" / "images" / "test" / name / f"{number}.png")
        Image.fromarray(mask).save(folder / "data" / "masks" / "test" / name / f"{number}.png")
    Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(
        folder / f"{EVIL.replace('/', '')}.png"
    )
    torch.manual_seed(0)
    classifier = save_classifier(ImageClassifier("resnet18", sorted(CLASSES)), folder / "classifier.safetensors")
    given = ["task=explore", "task.open_browser=false", "data=folder", "pipeline=fgbg", random_weights[1]]
    given += [
        f"data.root={folder / 'data'}",
        f"output_root={folder / 'outputs'}",
        f"model.checkpoint={classifier}",
    ]
    program = preloaded.start("run.py", given, folder)
    address = None
    while address is None and program.process.is_alive():
        time.sleep(0.1)
        lines = program.out.read_text().splitlines(keepends=True) if program.out.exists() else []
        whole = (line.strip() for line in lines if line.startswith("http://") and line.endswith("\n"))
        address = next(whole, None)
    yield program, address, folder
    program.process.kill()
    program.process.join()


class Opened:
    """The page in a browser, with all that it complained about or asked for elsewhere."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.problems: list[str] = []
        self.page.on("console", lambda m: m.type in ("error", "warning") and self.problems.append(m.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        own = ("data:", "blob:", "{0.scheme}://{0.netloc}/".format(urlsplit(address)))
        self.page.on("request", lambda r: r.url.startswith(own) or self.problems.append(r.url))
        self.page.goto(address)
        self.until("document.body.dataset.shown && !busy")

    def until(self, script: str) -> None:
        """Wait for something to become true; asked from outside, as the page's policy lets no script in."""
        end = time.monotonic() + PATIENCE_MS / 1000
        while not self.page.evaluate(script):
            assert time.monotonic() < end, script
            time.sleep(0.05)

    def change(self, script: str) -> None:
        """Do something in the page, and wait for the picture that follows."""
        before = self.page.evaluate("document.body.dataset.shown")
        self.page.evaluate(script)
        self.until(f"document.body.dataset.shown !== {json.dumps(before)} && !busy")

    def drawn(self, selector: str) -> str:
        return self.page.evaluate(f"document.querySelector({selector!r}).toDataURL()")


@pytest.fixture
def opened(chromium: Any, started: Any) -> Iterator[Opened]:
    page = Opened(chromium, started[1], viewport={"width": 1300, "height": 900})
    yield page
    page.context.close()
    assert page.problems == [], "no errors in the console, nothing asked for elsewhere"


def slide(selector: str, value: float) -> str:
    return f"""() => {{
        const slider = document.querySelector({selector!r});
        slider.value = {value};
        slider.dispatchEvent(new Event("input"));
    }}"""


def test_a_slider_changes_the_picture_the_command_and_the_address(opened: Opened):
    page = opened.page
    before = opened.drawn("#stage canvas")
    opened.change(
        slide("#pipeline-bg_threshold ~ input, .knob:has(#pipeline-bg_threshold) input[type=range]", 0.5)
    )
    assert opened.drawn("#stage canvas") != before, "there is another cold area"
    assert page.locator("#command").inner_text().endswith(" bg_threshold=0.5")
    assert page.locator("#pipeline-bg_threshold").input_value() == "0.5"
    address = page.url
    assert "bg_threshold" in address
    again = Opened(page.context.browser, address)
    assert again.page.locator("#command").inner_text() == page.locator("#command").inner_text()
    again.context.close()
    opened.change(slide(".knob:has(#pipeline-bg_threshold) input[type=range]", 0.95))
    assert "must be below fg_threshold=0.8" in page.locator("#problem").inner_text()
    opened.change(slide(".knob:has(#pipeline-bg_threshold) input[type=range]", 0.1))
    assert not page.locator("#problem").is_visible()
    opened.change("choose('pipeline', 'box')")
    assert page.locator("#pipeline-box_threshold").is_visible()
    assert page.locator("#pipeline-bg_threshold").count() == 0
    opened.change("choose('pipeline', 'fgbg')")
    opened.change("set('pipeline.n', 0)")
    assert page.locator("#pipeline-tie").is_disabled()
    assert "has no effect with pipeline=fgbg pipeline.n=0" in page.locator(".knob:has(#pipeline-tie)").inner_text()


def test_prompts_are_given_by_mouse_and_by_keyboard(opened: Opened):
    page, canvas = opened.page, opened.page.locator("#stage canvas")
    labels = "shown.prompts[1]"
    assert page.evaluate(labels) == "1" * 9 + "0" * 4

    def click(x: float, y: float, **options: Any) -> None:
        before = page.evaluate("document.body.dataset.shown")
        box = canvas.bounding_box()
        canvas.click(position={"x": x * box["width"], "y": y * box["height"]}, **options)
        opened.until(f"document.body.dataset.shown !== {json.dumps(before)} && !busy")

    opened.change("state.hand = { points: [], box: null }; refresh()")
    assert page.locator("#offered").inner_text() == "Nothing was asked."
    click(0.5, 0.5)
    click(0.1, 0.9, button="right")
    click(0.9, 0.9, modifiers=["Shift"])
    assert page.evaluate(labels) == "100"
    (x, y), size = page.evaluate("shown.prompts[0].slice(0, 2)"), page.evaluate("shown.image.size")
    assert abs(x - size[0] / 2) < 2
    assert abs(y - size[1] / 2) < 2
    click(0.1, 0.9)
    assert page.evaluate(labels) == "10", "a click on a point takes it away"
    before, box = page.evaluate("document.body.dataset.shown"), canvas.bounding_box()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.8 * box["height"], steps=4)
    page.mouse.up()
    opened.until(f"document.body.dataset.shown !== {json.dumps(before)} && !busy")
    assert len(page.evaluate("shown.prompts[2]")) == 4
    canvas.focus()
    before = page.evaluate("document.body.dataset.shown")
    for key in ("ArrowLeft", "Shift+ArrowUp", "b"):
        page.keyboard.press(key)
    opened.until(f"document.body.dataset.shown !== {json.dumps(before)} && !busy")
    assert page.evaluate(labels) == "100"
    assert page.evaluate("byId('stage').contains(document.activeElement)"), "focus stays"
    opened.change("byId('reset').click()")
    assert page.evaluate(labels) == "1" * 9 + "0" * 4


def test_settings_are_compared_on_a_sample_and_on_all(opened: Opened):
    page = opened.page
    page.locator("#pin").click()
    opened.change("choose('pipeline', 'fg')")
    opened.until("byId('sample').textContent.includes('B − A')")
    assert "6 examples" in page.locator("#sample").inner_text()
    assert page.locator("#pinned figcaption").inner_text().startswith("A: IoU")
    page.locator("#all").click()
    opened.until("byId('whole').textContent.startsWith('mIoU')")
    opened.until("document.querySelectorAll('#strip circle').length >= 19")
    opened.until("byId('sweep').textContent.includes(' -m ')")
    point = page.locator("#strip circle").nth(4)
    value = point.get_attribute("aria-label").partition(":")[0]
    before = page.evaluate("document.body.dataset.shown")
    point.focus()
    page.keyboard.press("Enter")
    opened.until(f"document.body.dataset.shown !== {json.dumps(before)} && !busy")
    assert page.locator("#command").inner_text().endswith(value)
    with page.expect_download() as saved:
        page.locator("#save").click()
    assert saved.value.suggested_filename == "figure-1.png"


def test_names_stay_text_and_images_are_chosen(opened: Opened, started: Any):
    page, folder = opened.page, started[2]
    opened.until("byId('only').options.length === 3")
    assert page.locator("#image option").count() == 6
    assert EVIL in page.locator("#only").inner_text()
    opened.change("byId('only').value = 'plain'; byId('only').dispatchEvent(new Event('change'))")
    assert page.locator("#image option").count() == 3
    first = page.locator("#image").input_value()
    page.locator("h1").click()
    before = page.evaluate("document.body.dataset.shown")
    page.keyboard.press("j")
    opened.until(f"document.body.dataset.shown !== {json.dumps(before)} && !busy")
    assert page.locator("#image").input_value() != first
    before = page.evaluate("document.body.dataset.shown")
    (dropped,) = folder.glob("*.png")
    page.set_input_files("#file", dropped)
    opened.until(f"document.body.dataset.shown !== {json.dumps(before)} && !busy && state.upload === 0")
    assert "dropped here" in page.locator("#image option:checked").inner_text()
    assert page.locator("main img, main script").count() == 0
    assert page.title() == "explorer · gradsam_exp"


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), pytest.param(1600, "dark", marks=only_soaking)])
def test_any_width_in_light_and_dark_and_for_every_reader(chromium: Any, started: Any, width: int, scheme: str):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="NO AXE: the page was not checked")
    page = Opened(chromium, started[1], viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.page.locator("#pin").click()
    # Twenty values, but those that are not above bg_threshold are refused.
    page.until("document.querySelectorAll('#strip circle').length >= 15")
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
    problems = list(page.problems)
    page.context.close()
    assert problems == []
    # The page's own policy lets nobody else's script in, so that the checker gets a page without one.
    relaxed = Opened(
        chromium, started[1], viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True
    )
    found = axe.Axe().run(relaxed.page).response["violations"]
    relaxed.context.close()
    assert [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found] == []


def test_ctrl_c_ends_it_in_order(started: Any):
    program, _, folder = started
    os.kill(program.process.pid, signal.SIGINT)
    code, out, err = preloaded.ended(program, within=60)
    assert code == 130
    assert err.strip() == "gradsam_exp: interrupted; what was finished is kept"
    assert "Traceback" not in out
    assert not list(Path(folder).rglob("error.txt"))
