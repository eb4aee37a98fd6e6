"""This module says in words and in a table which of the varied knobs matter, from `gradsam_exp.runs.effects`."""

from collections.abc import Sequence

from gradsam_exp.runs.effects import FEWEST_TRIALS, Effect, Effects
from gradsam_exp.runs.pooling import SEEDS
from gradsam_exp.runs.summary import Summary

LEAST_SHARE = 0.01  # of the variance between runs: what has less hardly matters
MOST_NAMED = 4  # levels in a sentence
KNOBS_NOTE = (
    "which knob matters: the best level against the mean of the knob's others and against the next, image by "
    "image, all other knobs held; share: of the variance between the runs' mIoU"
)
GAPS_NOTE = "not every combination was run: levels are compared where runs differ in nothing else"


def in_words(effects: Sequence[Effects]) -> list[str]:
    """Say what a person would: which choice wins, by how much, on how many images, and what does not matter."""
    return [" ".join(filter(None, [f"{one.within}:" if one.within else "", _said(one)])) for one in effects]


def matters(effect: Effect) -> bool:
    """Say whether a knob is worth a sentence: clearly not 0, and more than a hundredth of what differs."""
    return effect.is_clear and (effect.share is None or effect.share >= LEAST_SHARE)


def _is_little(effect: Effect) -> bool:
    """Whether a knob makes next to no difference, beside what others make or in itself."""
    return effect.is_clear or effect.is_nothing or (effect.share is not None and effect.share < LEAST_SHARE)


def _said(found: Effects) -> str:
    choices = [one for one in found.knobs if one.knob not in SEEDS]
    matter = [one for one in choices if matters(one)]
    hardly = [one.knob for one in choices if one not in matter and _is_little(one)]
    unclear = [one.knob for one in choices if one not in matter and one.knob not in hardly]
    said = [_wins(one, found.examples if one is matter[0] else None) for one in matter]
    said += [f"{_and(hardly)} hardly matter{'s' if len(hardly) == 1 else ''}."] if hardly else []
    said += [f"{_and(unclear)} {'make' if len(unclear) > 1 else 'makes'} no clear difference."] if unclear else []
    if choices and not matter:
        said.append(f"Measured on {found.examples} images.")
    for (one, other), share in found.interactions.items():
        said.append(f"{one} and {other} depend on each other ({share:.0%} of what differs): choose them together.")
    chance = [one for one in found.knobs if one.knob in SEEDS and one.share is not None]
    if chance:
        share = sum(one.share or 0.0 for one in chance)
        said.append(f"Chance ({_and([one.knob for one in chance])}) makes {share:.0%} of what differs.")
    if found.importance:
        most = ", ".join(f"{knob} {share:.0%}" for knob, share in found.importance.items())
        said.append(
            f"A search has no two runs that differ in one knob alone; importance for a random forest over its "
            f"{found.jobs} runs (permutation, scikit-learn), no difference image by image: {most}."
        )
    elif found.untold:
        hint = "" if found.jobs >= FEWEST_TRIALS else f" ({found.jobs} runs are too few for an importance)"
        said.append(f"No two runs differ in {_or(found.untold)} alone{hint}.")
    return " ".join(said)


def _wins(effect: Effect, examples: int | None) -> str:
    """One sentence on a knob that matters; ``examples`` are named once."""
    on = "" if examples is None else f", image by image on {examples} images"
    alike = effect.alike
    behind = next((level for level in effect.over if level not in alike), None)
    if not alike or behind is None:
        among = f", the next of {len(effect.over) + 1}" if len(effect.over) > 1 else ""
        by = _interval(effect.over[effect.next], 3)
        wins = f"{_named(effect.knob, effect.best)} wins: mIoU is higher by {by} than with {_level(effect.next)}"
        return f"{wins}{among}{on}."
    best = [_level(level) for level in (effect.best, *alike)]
    named = best if len(best) <= MOST_NAMED else [*best[: MOST_NAMED - 1], f"{len(best) - MOST_NAMED + 1} more"]
    by = _interval(effect.over[behind], 3)
    return (
        f"{effect.knob}: {_and(named)} are best and cannot be told apart; {_level(effect.best)} is ahead of "
        f"{_level(behind)} by {by} mIoU{on}."
    )


def _named(knob: str, level: str) -> str:
    return f"{knob}={level}" if level else f"the default of {knob}"


def _level(level: str) -> str:
    return level or "the default"


def _and(words: Sequence[str], last: str = "and") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def _or(words: Sequence[str]) -> str:
    return _and(words, "or")


def _interval(difference: Summary, digits: int = 4) -> str:
    low, high = difference.ci95
    plus = "" if digits == 3 else "+"
    return f"{difference.mean:{plus}.{digits}f} [{low:{plus}.{digits}f}, {high:{plus}.{digits}f}]"


def knob_rows(found: Effects) -> list[list[tuple[str, str]]]:
    """Make the rows of a table, one for each knob, of heading and text; interactions come last."""
    headings = ("knob", "best", "next", "Δ mIoU to the next", "Δ mIoU to the others' mean", "share")
    rows = []
    for one in found.knobs:
        said = (_level(one.next), _interval(one.over[one.next]), _interval(one.over_rest), _share(one.share))
        rows.append((one.knob, "any" if one.is_nothing else _level(one.best), *said))
    rows += [(" × ".join(pair), "", "", "", "", _share(share)) for pair, share in found.interactions.items()]
    rows += [(knob, "", "", "", "", "") for knob in found.untold]
    return [list(zip(headings, row, strict=True)) for row in rows]


def _share(share: float | None) -> str:
    return "" if share is None else f"{round(share, 2) or 0:.0%}".replace("%", " %")  # not -0 %


def notes_on_knobs(effects: Sequence[Effects]) -> list[str]:
    """Say what the table shows, and what is done where combinations are missing."""
    known = [one for one in effects if one.knobs]
    return [*([KNOBS_NOTE] if known else []), *([GAPS_NOTE] if any(not one.whole for one in known) else [])]
