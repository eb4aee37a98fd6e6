"""How long the explorer's page takes from a slider that is moved to the picture that has changed.

``python -m benchmarks.explorer``: the program, and a headless Chromium, on 500 drawn images and ``sam=compact``.

Limits: the image is prepared before; every value is asked for the first time, so that no answer is known.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from benchmarks.timing import result

RUN = Path(__file__).parent.parent / "run.py"
_MOVE = """async ([key, values]) => {
  const slider = document.querySelector(`.knob:has(#${key}) input[type=range]`), times = [];
  for (const value of values) {
    const before = document.body.dataset.shown, start = performance.now();
    slider.value = value;
    slider.dispatchEvent(new Event("input"));
    while (busy || document.body.dataset.shown === before) await new Promise((done) => setTimeout(done, 1));
    times.push(performance.now() - start);
  }
  return times;
}"""


def main() -> None:
    """Move two sliders of ``pipeline=fgbg``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", type=int, default=40)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(RUN), "task=explore", "task.open_browser=false", "pipeline=fgbg"]
        program = subprocess.Popen([*command, f"output_root={folder}"], stdout=subprocess.PIPE, text=True)
        assert program.stdout is not None
        address = next(line.strip() for line in iter(program.stdout.readline, "") if line.startswith("http://"))
        try:
            figures = _timed(address, arguments.values)
        finally:
            program.send_signal(signal.SIGINT)
            program.wait()
    result(**figures)


def _timed(address: str, count: int) -> dict[str, float]:
    with sync_playwright() as started:
        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        ready = "byId('image').options.length === 500 && byId('sample').textContent.startsWith('mIoU')"
        while not page.evaluate(ready):  # the page's policy lets no other way in
            time.sleep(0.1)
        figures = {}
        for key, low, high in (("pipeline-bg_threshold", 0.02, 0.6), ("pipeline-fg_threshold", 0.61, 0.99)):
            values = [round(low + k * (high - low) / count, 3) for k in range(count + 2)]
            times = page.evaluate(_MOVE, [key, values])[2:]
            quartiles = statistics.quantiles(times, n=4)
            name = key.partition("-")[2]
            figures |= {f"{name} ms": round(quartiles[1]), f"{name} quartiles": [round(q) for q in quartiles[::2]]}
        browser.close()
    return figures


if __name__ == "__main__":
    main()
