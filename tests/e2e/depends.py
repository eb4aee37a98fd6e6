"""A script for a copy of the package: after each edit, which stages and whether the run would be made again.

``python depends.py OVERRIDES EDITS``, both JSON: what a command line would give; files to edit, relative to the
current folder. Prints a JSON object ``{file: [stages that changed, …, "run" if its identity did]}``.

Each answer comes from a fork that has imported everything and has read no source yet, as a new command has not.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import gradsam_exp as gs
from gradsam_exp.engine.plan import Plan, plan


def keys(planned: Plan) -> dict[str, str]:
    """The store's key of each stage's first chunk, and the run's identity."""
    found: dict[str, str] = {}
    for stage in planned.preparation().stages:
        before: list[Any] = [found[label] for label in stage.after]
        found[stage.label] = stage.key(before or [planned.dataset.store_digest, [0]])
    return {**found, "run": planned.identity}


def in_a_fork(planned: Plan) -> dict[str, str]:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, json.dumps(keys(planned)).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as answer:
        return json.loads(answer.read())


def main(overrides: list[str], edits: list[str]) -> dict[str, list[str]]:
    planned = plan(gs.compose(overrides), gs.Job(Path("job")))
    known, changed = in_a_fork(planned), {}
    assert in_a_fork(planned) == known, "nothing was edited"
    for edit in edits:
        with Path(edit).open("a", encoding="utf-8") as file:
            file.write("\n# edited\n")
        before, known = known, in_a_fork(planned)
        changed[edit] = sorted(name for name in known if known[name] != before[name])
    return changed


if __name__ == "__main__":
    print(json.dumps(main(*map(json.loads, sys.argv[1:]))))
