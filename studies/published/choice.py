"""``python -m studies.published.choice RUNS`` chooses on val, and prints the command that reports this on test.

For each group of runs that ``compare_within`` keeps apart (a segmenter and a tier), the automatic run of the
largest mean IoU is chosen: one of those that ask a network, and one of those that do not; of equal means the
first. Runs that look at the truth (``upper_bound``) are no choice.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from gradsam_exp.console import console
from gradsam_exp.errors import InputError
from gradsam_exp.reports.tables import is_unknown, varied_columns
from gradsam_exp.runs.comparison import Runs
from gradsam_exp.runs.finding import as_override, find_runs
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.sweep import collect_runs, with_comparison, without_network

Setting = dict[str, str]
"""What a run was given, by key."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the choices and the command that reports them; returns the exit code."""
    parser = argparse.ArgumentParser("python -m studies.published.choice", description=__doc__)
    parser.add_argument("runs", nargs="+", help="folders of finished runs of experiment=choice, or globs")
    given = parser.parse_args(arguments)
    try:
        found = find_runs(given.runs)
        chosen = choices(found)
    except InputError as error:
        print(f"gradsam_exp: {error}", file=sys.stderr)
        return 1
    for place, settings in chosen.items():
        for setting in settings[1:]:
            console.print(f"{place}: {_written(setting)}", soft_wrap=True, markup=False, highlight=False)
    print(shlex.join(["python", "run.py", "-m", *command(chosen, found[0].config)]))
    return 0


def choices(found: Sequence[Run]) -> dict[str, list[Setting]]:
    """Choose in each group: its first run, the best with a network, and the best without one, if there is one.

    Raises:
        InputError: a run that is not of ``split=val``: nothing may be chosen on test.
    """
    runs = Runs.from_anywhere(found)
    for job in runs.jobs:
        if (split := runs[job].config.get("split")) != "val":
            raise InputError(f"{runs[job].folder} has split={split}: choose on split=val, report on split=test")
    table = with_comparison(runs, collect_runs(runs))
    table = table[table["status"] == "finished"]
    keys = varied_columns(table)
    chosen: dict[str, list[Setting]] = {}
    for place, own in table.groupby(table.get("within", lambda _: ""), sort=False):
        rows = own.to_dict("records")
        automatic = [row for row in rows if row.get("upper_bound") is not True]
        bare = [row for row in automatic if without_network(str(row.get("sam", "")))]
        asked = [row for row in automatic if row not in bare]
        best = [max(kind, key=lambda row: float(row["miou"])) for kind in (asked, bare) if kind]
        chosen[str(place)] = [
            _setting(row, [key for key in keys if key in runs[row["job"]].given]) for row in (*asked[:1], *best)
        ]
    return chosen


def command(chosen: Mapping[str, Sequence[Setting]], config: Mapping[str, Any]) -> list[str]:
    """Write the command that makes the chosen runs on test, each group's first run before its choices.

    Args:
        chosen: of `choices`.
        config: of one of the runs, whose images (``background``, ``limit``) are the command's as well.
    """
    settings = [setting for group in chosen.values() for setting in group]
    grids = [own for number, own in enumerate(settings) if own not in settings[:number]]
    written = [
        f"+hydra.sweeper.grids.g{number}={{{','.join(f'{key}:{value}' for key, value in own.items())}}}"
        for number, own in enumerate(grids)
    ]
    within = ",".join(config["compare_within"])
    same = [f"background={config['data']['background']['name']}", f"limit={as_override(config['limit'])}"]
    return ["hydra/sweeper=grids", "split=test", "name=chosen", f"compare_within=[{within}]", *same,
            *written]  # fmt: skip


def _setting(row: Mapping[Any, Any], keys: Sequence[str]) -> Setting:
    return {key: str(row[key]) for key in keys if not is_unknown(row.get(key)) and str(row[key])}


def _written(setting: Setting) -> str:
    return " ".join(f"{key}={value}" for key, value in setting.items())


if __name__ == "__main__":
    sys.exit(main())
