"""This module reads a whole data set before anything else is done, and lists all files that cannot be used."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.table import Table

from gradsam_exp.config import SPLITS, Config
from gradsam_exp.console import console
from gradsam_exp.data.base import DATASETS
from gradsam_exp.data.files import LEFT_OUT, FileDataset, FileProblems
from gradsam_exp.data.pictures import FileProblem
from gradsam_exp.errors import InputError


@dataclass
class SplitCheck:
    """What was found about one split of a data set.

    Attributes:
        split: ``train``, ``val`` or ``test``.
        images, examples: how many can be used.
        problems: files that cannot.
        notes: what their owner may not expect.
        missing: why there is no such split; empty if there is one.
    """

    split: str
    images: int = 0
    examples: int = 0
    problems: Sequence[FileProblem] = ()
    notes: Sequence[str] = ()
    missing: str = ""


@dataclass
class DataCheck:
    """The findings about all splits of a data set."""

    splits: list[SplitCheck] = field(default_factory=list)

    @property
    def problems(self) -> list[tuple[str, FileProblem]]:
        """Return every problem with its split; a file that several splits have is listed once."""
        found = {str(problem): (one.split, problem) for one in self.splits for problem in one.problems}
        return list(found.values())


def check_data(config: Config) -> DataCheck:
    """Read all splits of the configured data set, and leave out what cannot be used.

    Raises:
        InputError: a wrong parameter, or a data set that is not files.
    """
    if "check" not in config.data:
        raise InputError(f"data.check: data={config.data.get('name')} is not files, there is nothing to check")
    node = {**config.data, "on_error": "skip"}
    found = DataCheck()
    for split in SPLITS:
        try:
            data = DATASETS.build(node, split=split)
        except FileProblems as error:
            found.splits.append(SplitCheck(split, problems=error.problems, missing="nothing is left"))
        except InputError as error:
            found.splits.append(SplitCheck(split, missing=str(error)))
        else:
            assert isinstance(data, FileDataset)
            examples = sum(len(data.image_labels(index)) for index in range(len(data)))
            notes = [note for note in data.notes if not note.startswith(LEFT_OUT)]
            found.splits.append(SplitCheck(split, len(data), examples, data.problems, notes))
    if all(one.missing and not one.problems for one in found.splits):
        raise InputError(found.splits[-1].missing)
    return found


def report_data_check(config: Config, needed: Sequence[str]) -> None:
    """Print what `check_data` finds, every problem in one table.

    Args:
        needed: the splits without which the task cannot run.

    Raises:
        InputError: if anything is wrong, after all of it was printed.
    """
    found = check_data(config)
    for one in found.splits:
        usable = f"{one.images} images, {one.examples} examples"
        console.print(f"{one.split}: {one.missing if one.missing else usable}", soft_wrap=True)
        for note in one.notes:
            console.print(f"  {note}", soft_wrap=True)
    problems = found.problems
    if problems:
        table = Table(title=f"{len(problems)} files cannot be used", title_justify="left")
        for column in ("split", "file", "what", "hint"):
            table.add_column(column, overflow="fold")
        for split, problem in problems:
            table.add_row(split, str(problem.path), problem.what, problem.hint)
        console.print(table)
    lacking = [one.split for one in found.splits if one.missing and one.split in needed]
    if problems or lacking:
        what = [f"{len(problems)} files cannot be used: data.on_error=skip leaves them out"] if problems else []
        what += [f"there is no split {split!r}" for split in lacking]
        raise InputError(f"data.check: {'; '.join(what)}")
    console.print("nothing is wrong")
