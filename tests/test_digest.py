"""Which source files count for a module, and that an edit of any of them is seen."""

import ast
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import gradsam_exp
from gradsam_exp.digest import Sources, digest, source_digest
from gradsam_exp.engine.plan import plan
from gradsam_exp.prompts.base import STRATEGIES

PACKAGE = Path(gradsam_exp.__file__).parent


def modules() -> dict[str, Path]:
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = ["gradsam_exp", *path.relative_to(PACKAGE).with_suffix("").parts]
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def test_imports_are_found_as_pythons_own_parser_finds_them():
    """In every module of the package; the search by a regular expression takes a tenth of the time."""
    known, sources = modules(), Sources()
    for name, path in known.items():
        if name == "gradsam_exp":  # its stub says what it imports
            continue
        parsed: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                parsed |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{path} imports relatively"
                parsed |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        direct = {module for module in parsed if module in known}
        assert direct <= set(sources.reached(name)), name


def test_strategies_are_not_in_what_heatmaps_depend_on():
    reached = Sources().reached("gradsam_exp.engine.stages.heatmaps", "gradsam_exp.explainers.gradient")
    assert "gradsam_exp.explainers.layers" in reached
    assert "gradsam_exp.engine.stages.base" in reached
    assert not [name for name in reached if name.startswith(("gradsam_exp.prompts", "gradsam_exp.reports"))]


FILES = {
    "__init__": "",
    "strategy": "from . import helpers\nfrom gradsam_exp.prompts.foreground import Foreground\n",
    "helpers": "def answer():\n    from .deep import (\n        one,\n        two,\n    )\n    return one\n",
    "deep": "one = two = 1\n",
    "unrelated": "x = 1\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "somebodys"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    installed(folder, "1.0")
    return folder


def installed(package: Path, version: str) -> None:
    """As if pip had installed it in this version."""
    facts = package.parent / f"{package.name}-1.dist-info"
    facts.mkdir(exist_ok=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package.name}\nVersion: {version}\n")


@pytest.mark.parametrize(
    ("edited", "counts"),
    [("strategy", True), ("helpers", True), ("deep", True), ("__init__", True), ("unrelated", False)],
)
def test_somebody_elses_plug_in_counts_with_what_it_imports(package: Path, edited: str, counts: bool):
    before = Sources().digest("somebodys.strategy")
    assert Sources().digest("somebodys.strategy") == before
    (package / f"{edited}.py").write_text(FILES[edited] + "# an edit\n")
    assert (Sources().digest("somebodys.strategy") != before) is counts


def test_its_base_class_in_this_package_counts_as_well(package: Path):
    reached = Sources().reached("somebodys.strategy")
    assert {"somebodys.deep", "gradsam_exp.prompts.foreground", "gradsam_exp.types"} <= set(reached)
    assert "gradsam_exp.explainers.base" not in reached


def test_what_imports_the_package_itself_depends_on_all_that_it_offers(package: Path):
    (package / "strategy.py").write_text("import gradsam_exp as gs\n")
    assert {"gradsam_exp.explainers.gradient", "gradsam_exp.prompts.background"} <= set(
        Sources().reached("somebodys.strategy")
    )


def test_the_version_of_its_distribution_counts(package: Path):
    found = []
    for version in ("1.0", "1.1", "1.0"):
        installed(package, version)
        found.append(Sources().digest("somebodys.strategy"))
    assert found[0] == found[2] != found[1]
    shutil.rmtree(package.parent / "somebodys-1.dist-info")
    assert Sources().digest("somebodys.strategy") not in found, "it came with none"


def test_code_without_a_file_is_never_taken_for_known(monkeypatch: pytest.MonkeyPatch):
    import sys
    from types import ModuleType

    monkeypatch.setitem(sys.modules, "typed_in", ModuleType("typed_in"))
    assert Sources().digest("typed_in") != Sources().digest("typed_in")


def test_a_module_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match=r"the source of gradsam_exp\.nothing cannot be found"):
        source_digest("gradsam_exp.nothing")


def test_the_plug_ins_named_in_a_node_and_inside_it_count():
    node = {"name": "not one", "of": [{"name": "fgbg"}, {"name": "box"}]}
    assert STRATEGIES.modules(node) == ["gradsam_exp.prompts.background", "gradsam_exp.prompts.regions"]
    assert STRATEGIES.code(node) == source_digest(*STRATEGIES.modules(node))
    assert STRATEGIES.code(node) != STRATEGIES.code({"name": "fgbg"})


def test_plain_values_have_one_digest():
    assert digest({"a": 1, "b": [1.5, None]}) == digest({"b": [1.5, None], "a": 1})
    assert digest([1]) != digest(["1"])


def least_seconds(call: Callable[[], object]) -> float:
    """Of several calls, in seconds of this process: others may keep the machine busy."""
    seconds = []
    for _ in range(7):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return min(seconds)


@pytest.mark.slow
def test_digests_cost_a_run_next_to_nothing(tmp_path: Path):
    config = gradsam_exp.compose(["metrics=full", "refine=guided", "pipeline=fgbg"])
    plans = iter([plan(config, gradsam_exp.Job(tmp_path)) for _ in range(8)])
    first = next(plans)
    assert first.identity  # all is imported now, and every source is read
    later = least_seconds(lambda: next(plans).identity)
    assert later < 0.030, "3 ms on an idle machine"

    stages = first.preparation().stages
    modules = [(type(stage).__module__, *stage.modules) for stage in stages]
    modules += [("gradsam_exp.engine.plan", "gradsam_exp.runs.summary", "gradsam_exp.prompts.background")]

    def for_the_first_time() -> None:
        sources = Sources()
        for some in modules:
            sources.digest(*some)

    the_first = least_seconds(for_the_first_time)
    assert the_first < 0.200, "15 ms on an idle machine"
    assert source_digest(*modules[0])
    assert least_seconds(lambda: [source_digest(*some) for some in modules]) < the_first / 20, "read once"
