"""What README and docs/ say is what happens: commands, examples, maps, tables of options, links."""

from __future__ import annotations

import importlib.util
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from skimage.data import coffee

from gradsam_exp.metrics.base import DatasetMetric, build_metrics
from gradsam_exp.runs.summary import summarize_counts

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for pattern in (
        "*.md",
        "docs/*.md",
        "studies/*/*.md",
        "examples/*/*.md",
        "benchmarks/*.md",
        "gradsam_exp/weights/*.md",
    )
    for path in sorted(ROOT.glob(pattern))
}
CONTRIBUTING = PAGES["CONTRIBUTING.md"]
PROGRAMS = ("python run.py ", "gradsam-exp ", "python -m gradsam_exp ")  # the same one
EXAMPLES = ("pipeline=hottest", "+metrics.leak=true", "pipeline=spread")  # what a reader adds first
ABBREVIATED = re.compile(r"…|\w\|\w")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def lines(page: str) -> list[str]:
    """Every command of a page, from blocks and from running text."""
    written = [line for block in blocks("bash", PAGES[page]) for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    return written + [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]


COMMANDS = dict.fromkeys(
    shlex.join(shlex.split(line.removeprefix(program), comments=True))
    for page in PAGES
    for line in lines(page)
    for program in PROGRAMS
    if line.startswith(program) and not ABBREVIATED.search(line) and not line.endswith(EXAMPLES)
)


def test_the_example_of_one_picture(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(coffee()).save("coffee.png")
    example, *_ = blocks("python")
    exec(compile(example, "README.md", "exec"), {})
    name, share = capsys.readouterr().out.split()
    assert name == "espresso"
    assert 0.3 < float(share) < 0.6, "the cup and its saucer"


def test_the_library_example(capsys):
    _, example, _ = blocks("python")
    example = f"import gradsam_exp as gs\n{example}"  # which the example above it has
    exec(compile(example, "README.md", "exec"), {})
    name, value = capsys.readouterr().out.split()
    assert name == "mIoU"
    assert float(value) > 0.7


def test_the_plug_in_example(batch, monkeypatch):
    import gradsam_exp as gs

    gs.STRATEGIES.names()  # have all of ours first
    monkeypatch.setattr(gs.STRATEGIES, "_factories", dict(gs.STRATEGIES._factories))  # forget it afterwards

    *_, example = blocks("python")
    exec(compile(example, "README.md", "exec"), {"__name__": "hottest"})
    (yaml,) = blocks("yaml")
    name = yaml.splitlines()[1].removeprefix("name: ")
    heatmaps = gs.GradCAM(gs.find_classifier("shipped:resnet18-shapes").load(), ["layer2.-1"])(batch.images)
    prompts = gs.STRATEGIES.build({"name": name}).propose(
        gs.PromptContext(batch.images, heatmaps, batch.example_ids)
    )
    for image in range(len(batch)):
        ((x, y),) = prompts.points[image].long().tolist()
        assert heatmaps.values[image, y, x] == 1


def test_the_metric_example(monkeypatch):
    import gradsam_exp as gs

    gs.METRICS.names()  # have all of ours first
    monkeypatch.setattr(gs.METRICS, "_factories", dict(gs.METRICS._factories))  # forget it afterwards

    _, example, _ = blocks("python", CONTRIBUTING)
    exec(compile(example, "CONTRIBUTING.md", "exec"), {"__name__": "leak"})
    (metric,) = build_metrics({"leak": True})
    masks, truth = torch.zeros(2, 2, 2, dtype=torch.bool), torch.zeros(2, 2, 2, dtype=torch.bool)
    masks[0] = truth[0, 0] = True
    metric.update(masks, truth)
    assert metric.per_example().nan_to_num(-1).tolist() == [0.5, -1]


def test_the_example_of_a_data_set_metric(monkeypatch):
    import gradsam_exp as gs

    gs.METRICS.names()  # have all of ours first
    monkeypatch.setattr(gs.METRICS, "_factories", dict(gs.METRICS._factories))  # forget it afterwards

    *_, example = blocks("python", CONTRIBUTING)
    exec(compile(example, "CONTRIBUTING.md", "exec"), {"__name__": "overall_iou"})
    (metric,) = build_metrics({"overall_iou": True})
    assert isinstance(metric, DatasetMetric)
    metric.add(
        {
            "masks": torch.tensor([[[1, 1, 0, 0]], [[0, 0, 1, 1]], [[1, 0, 0, 0]]]).bool(),
            "truth": torch.tensor([[[1, 0, 0, 0]], [[0, 1, 1, 0]], [[1, 1, 1, 1]]]).bool(),
            "counted": torch.tensor([[[1, 1, 1, 1]], [[1, 1, 1, 0]], [[1, 1, 1, 1]]]).bool(),
            "labels": torch.tensor([0, 1, 0]),
            "image_ids": ["a", "a", "b"],
            "class_names": ("cat", "dog"),
        }
    )
    found = summarize_counts(metric, pd.DataFrame(metric.rows))
    assert found.mean == 3 / 8
    assert {name: part.mean for name, part in found.parts.items()} == {"cat": 2 / 6, "dog": 1 / 2}


def test_the_example_of_a_data_format(tmp_path, monkeypatch):
    import gradsam_exp as gs

    gs.DATASETS.names()  # have all of ours first
    monkeypatch.setattr(gs.DATASETS, "_factories", dict(gs.DATASETS._factories))  # forget it afterwards

    example, *_ = blocks("python", CONTRIBUTING)
    exec(compile(example, "CONTRIBUTING.md", "exec", dont_inherit=True), {"__name__": "named"})
    for folder in ("test", "test-masks"):
        (tmp_path / folder).mkdir()
    mask = np.zeros((16, 24), dtype=np.uint8)
    mask[2:5, 2:6], mask[1] = 1, 255
    for name in ("cat-1", "dog-1"):
        Image.new("RGB", (24, 16)).save(tmp_path / "test" / f"{name}.jpg")
        Image.fromarray(mask).save(tmp_path / "test-masks" / f"{name}.png")
    data = gs.DATASETS.build({"name": "named", "root": str(tmp_path)}, split="test")
    assert (len(data), list(data.class_names)) == (2, ["cat", "dog"])
    (dog,) = data[1].examples
    assert (dog.label, int(dog.mask.sum()), int((~dog.counted).sum())) == (1, 12, 24)


def test_only_these_pages_have_python_examples():
    """Those above; a page that gets one needs a test."""
    found = {page: len(blocks("python", text)) for page, text in PAGES.items()}
    assert {page: number for page, number in found.items() if number} == {"README.md": 3, "CONTRIBUTING.md": 3}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(run, command: str):
    """Of a sweep, the first job."""
    arguments = shlex.split(command.removesuffix(" --cfg job"))
    if "-m" in arguments or any(a.startswith("experiment=") for a in arguments):
        arguments = [a for a in arguments if a != "-m"]
        arguments = [
            a if re.search(r"[\[{]", a) else re.sub(r"interval\(|range\(", "", a).split(",")[0] for a in arguments
        ]
    done = run(*arguments, "--cfg=job", defaults=False)
    assert done.code == 0, done.err


def test_every_other_command_is_there():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    written = "\n".join(line for page in PAGES for line in lines(page))
    made = set(re.findall(r"^make ([a-z-]+)(?: |$)", written, re.MULTILINE))
    assert {"run", "test"} <= made <= targets
    modules = set(re.findall(r"^python -m ([\w.]+)(?: |$)", written, re.MULTILINE))
    assert {"gradsam_exp", "studies.background_points"} <= modules
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


def anchor(heading: str) -> str:
    """The name that GitHub gives a heading in links."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_links_lead_somewhere():
    links = [
        (page, target, name)
        for page, text in PAGES.items()
        for target, name in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text)
        if "://" not in target
    ]
    assert links
    for page, target, name in links:
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), f"{page}: {target}"
        if name:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert name in map(anchor, headings), f"{page}: {target}#{name}"


def test_readme_leads_to_every_page_of_docs():
    linked = set(re.findall(r"\]\((docs/[^)#]+\.md)", README))
    assert linked == {page for page in PAGES if page.startswith("docs/")}


def folders(parent: Path) -> set[str]:
    """Folders that belong to the project, by name."""
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").split()]
    return {
        f"{path.name}/"
        for path in parent.iterdir()
        if path.is_dir()
        and not path.name.startswith(".")
        and not any(fnmatch(path.name, pattern) for pattern in ignored)
    }


def rooms() -> set[str]:
    """What lies in the package: its folders, and the modules beside them."""
    package = ROOT / "gradsam_exp"
    return folders(package) | {path.name for path in package.glob("*.py") if not path.name.startswith("__")}


def test_the_map_shows_every_folder_and_no_other():
    (drawn,) = blocks("", README.partition("## The map\n")[2].partition("\n## ")[0])
    entries = [line for line in drawn.splitlines() if line]
    clauses = [re.split(r" {2,}", line.strip(), maxsplit=1) for line in entries]
    outside, inside = (
        {
            name
            for line, entry in zip(entries, clauses, strict=True)
            if line.startswith("  ") is deep
            for name in entry[0].split()
        }
        for deep in (False, True)
    )
    assert outside == folders(ROOT) | {"run.py"}
    assert inside == rooms()
    assert [entry for entry in clauses if len(entry) < 2] == [["gradsam_exp/"]], (
        "every other line says what is there"
    )


def test_contributing_maps_the_same_rooms():
    table = PAGES["CONTRIBUTING.md"].partition("## The map\n")[2].partition("\n## ")[0]
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name.rstrip("/") for cell in first for name in re.findall(r"`([^`]+)`", cell)}
    assert named == {name.rstrip("/").removesuffix(".py") for name in rooms()}


def test_the_table_of_groups_names_every_option():
    rows = dict(re.findall(r"^\| `(\w+)=` \| (.*) \|$", README, re.MULTILINE))
    assert set(rows) == {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()} - {
        "experiment",
        "hydra",
        "trainer",
    }
    for group, row in rows.items():
        options = {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}
        assert options - set(re.findall(r"`([^`]+)`", row)) == set(), group


def test_the_page_on_sweeps_names_every_experiment():
    named = set(re.findall(r"^python run\.py experiment=(\w+)", PAGES["docs/sweeps.md"], re.MULTILINE))
    assert named == {path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")}
