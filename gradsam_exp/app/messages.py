"""This module turns the errors of Hydra and OmegaConf into one line that names the key and what to do."""

import re
import shlex

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from gradsam_exp.app.launchers import missing_extra
from gradsam_exp.config import GROUPS, KNOBS, who_has
from gradsam_exp.errors import InputError, did_you_mean, first_line


def one_line(error: BaseException) -> str:
    """Say in one line what went wrong and what to do; knows the errors that Hydra and OmegaConf raise."""
    cause = error.__cause__
    if isinstance(error, OverrideParseException):
        return _not_parsed(error)
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        hint = missing_extra(str(error.missing_cfg_file))
        if hint is not None:
            return f"{group}={choice} needs a package that is not installed: {hint}"
        return f"{group}={choice!r} is not known{did_you_mean(choice, error.options)}"
    text = str(error)
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        key = unknown.group(1)
        return f"{key!r} is not a configuration key{_nearest_beside(key, cause)}"
    for one in (cause, error):
        if isinstance(one, OmegaConfBaseException) and one.full_key:
            return f"{one.full_key}: {first_line(one)}"
    hint = "; to run with each of them add -m: python run.py -m …" if text.startswith("Ambiguous value") else ""
    plain = text if getattr(error, "is_list", False) else " ".join(text.split())
    return plain if isinstance(error, InputError) else first_line(error) + hint


def _not_parsed(error: OverrideParseException) -> str:
    """Name what Hydra's grammar does not take, and say how to write or quote it."""
    if not re.search(r"\w=.", error.override):
        return (
            f"{error.override!r} is not understood: write key=value without spaces, quote a value that has some "
            "('key=\"two words\"'), and put -m first"
        )
    key, _, value = error.override.partition("=")
    quoted = shlex.quote(f'{key}="{value}"')
    return f"{key}: {value!r} is not understood ({first_line(error)}); in quotes it is text: {quoted}"


def _nearest_beside(key: str, error: BaseException | None) -> str:
    """List what else is known where ``key`` was looked for, the nearest name first."""
    group, _, last = str(getattr(error, "full_key", key)).rpartition(".")
    owners = who_has(group, last) if group in GROUPS else []
    if owners:
        names = owners[0] if len(owners) == 1 else f"{', '.join(owners[:-1])} and {owners[-1]}"
        return f" of the chosen {group}; {names} {'has' if len(owners) == 1 else 'have'} {last}"
    parent = getattr(error, "parent_node", None)
    known = map(str, parent) if group and isinstance(parent, DictConfig) else [*KNOBS, *GROUPS]
    return did_you_mean(last, known)


def no_choice(error: Exception) -> InputError | None:
    """Say that a group cannot be null, if that is what Hydra refused."""
    if isinstance(error, ValueError) and "Config group override must be" in str(error):
        return InputError("a group cannot be null: leave it out for its default, or choose one (see --help)")
    return None
