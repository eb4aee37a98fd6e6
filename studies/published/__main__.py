"""``python -m studies.published cifar10_root=PATH photographs=PATH`` makes the pages' tables again."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gradsam_exp.console import console
from gradsam_exp.errors import InputError
from gradsam_exp.runs.finding import find_runs
from studies.published.choice import choices, command
from studies.published.pages import PAGES, SWEEPS, Made, named, photographs_and_shapes
from studies.published.tables import marked, put

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the asked tables need, and write them into their pages; returns the exit code."""
    parser = argparse.ArgumentParser("python -m studies.published", description=__doc__)
    parser.add_argument("--only", nargs="*", metavar="TABLE", help=f"of {', '.join(named())}; all if left out")
    parser.add_argument("--out", type=Path, default=Path("outputs/published"), help="where the runs go")
    parser.add_argument("--dry-run", action="store_true", help="print the commands of the runs, and do nothing")
    parser.add_argument("--limit", type=int, help="so many images of each run; nothing is written into pages")
    parser.add_argument("--cifar10-root", required=True, help="the CIFAR-10 photographs")
    parser.add_argument("--photographs", required=True, help="BSDS500, see docs/data.md")
    given = parser.parse_args(arguments)
    try:
        publish(given)
    except InputError as error:
        print(f"gradsam_exp: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "gradsam_exp: interrupted; finished runs are kept, and taken when this is started again",
            file=sys.stderr,
        )
        return 130
    return 0


def publish(given: argparse.Namespace) -> None:
    """Make the tables that are asked for.

    Raises:
        InputError: a table that is not known, a page that does not mark one of its tables, a run that failed.
    """
    if unknown := set(given.only or ()) - set(named()):
        raise InputError(f"--only: {', '.join(sorted(unknown))} is no table; there are {', '.join(named())}")
    for page, tables in PAGES.items():
        if missing := set(tables) - set(marked(ROOT / page)):
            raise InputError(f"{page} marks no table {', '.join(sorted(missing))}")
    asked = {
        page: {n: t for n, t in own.items() if not given.only or n in given.only} for page, own in PAGES.items()
    }
    needed = dict.fromkeys(sweep for own in asked.values() for table in own.values() for sweep in table.needs)
    made: Made = {}
    for sweep in needed:
        more = [f"cifar10_root={given.cifar10_root}", *([f"limit={given.limit}"] if given.limit else [])]
        if from_val := SWEEPS[sweep].chosen_from:
            runs = [] if given.dry_run else find_runs(str(made[from_val]))
            more += command(choices(runs), runs[0].config) if runs else [f"<chosen from {from_val}>"]
        command_line = SWEEPS[sweep].command(given.out / sweep, given.photographs, more)
        console.print(" ".join(["python", *command_line]), soft_wrap=True, markup=False)
        if given.dry_run:
            continue
        if subprocess.run([sys.executable, *command_line], cwd=ROOT, check=False).returncode:
            raise InputError(f"{sweep} did not end well; the lines above say why")
        made[sweep] = max(path.parent for path in (given.out / sweep).rglob(SWEEPS[sweep].table))
    if given.dry_run:
        return
    for page, own in asked.items():
        texts = {name: table.make(made) for name, table in own.items()}
        if given.limit:
            console.print("\n\n".join(f"{page}, {name}:\n{text}" for name, text in texts.items()), soft_wrap=True)
        else:
            changed = put(ROOT / page, texts)
            console.print(f"{page}: {', '.join(changed) or 'nothing'} has changed", soft_wrap=True)
    if not given.limit and {"photographs", "strategies-mixed"} <= set(made):
        photographs_and_shapes(made, ROOT / "docs/photographs-and-shapes.png")


if __name__ == "__main__":
    sys.exit(main())
