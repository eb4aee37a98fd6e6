"""This module turns what is chosen on the page into a configuration, and into the command that gives the same.

Only the knobs of the chosen plug-ins can be set, to plain values: nothing that comes from the browser is
interpolated, and no path, model or data set can be chosen there.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, Field, StringConstraints
from pydantic.dataclasses import dataclass

from gradsam_exp.config import Config, check_values, refuse_missing
from gradsam_exp.errors import InputError, did_you_mean, first_line
from gradsam_exp.explorer.recent import Recent
from gradsam_exp.prompts.base import KNOBS
from gradsam_exp.runs.overrides import key_of, written

GROUPS = ("explainer", "refine", "pipeline", "selector")
"""The groups that are chosen on the page."""
KEPT = 256  # configurations and what is read of them
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_SHARED = re.compile(r"\$\{(\w+)\}")
_NOT_OURS = {"task", "hydra", "name", "resume"}
"""Keys of the explorer's own command that an evaluation is not given."""
Text = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^$\x00-\x1f]*$")]
Value = bool | int | float | Text | list[Text] | None
Place = Annotated[float, Field(ge=-0.5, le=1e6)]


@dataclass(frozen=True, config=_STRICT)
class ByHand:
    """Holds prompts that were given by hand, in pixels of the image.

    Attributes:
        points: ``(x, y, label)``, 1 for foreground and 0 for background.
        box: ``x0, y0, x1, y1``; None: no box.
    """

    points: Annotated[list[tuple[Place, Place, Annotated[int, Field(ge=0, le=1)]]], Field(max_length=200)]
    box: tuple[Place, Place, Place, Place] | None = None


@dataclass(frozen=True, config=_STRICT)
class State:
    """Holds what is chosen on the page.

    Attributes:
        choices: the option of each group that was changed, such as ``pipeline: fgbg``.
        knobs: values by key, as the command line names them.
        image: number of the image in its data set.
        example: number of the example in the image.
        upload: number of the picture that was dropped on the page; None: the image is the data set's.
        hand: prompts in place of the strategy's.
    """

    choices: dict[Text, Text] = field(default_factory=dict)
    knobs: dict[Text, Value] = field(default_factory=dict)
    image: Annotated[int, Field(ge=0)] = 0
    example: Annotated[int, Field(ge=0)] = 0
    upload: Annotated[int, Field(ge=0)] | None = None
    hand: ByHand | None = None

    @property
    def setting(self) -> str:
        """Return everything but the image and what is done to it by hand, as a text to compare by."""
        return json.dumps([self.choices, self.knobs], sort_keys=True)


@dataclasses.dataclass(frozen=True)
class _Composed:
    """A configuration in which no knob is set yet: without Hydra's own part, with the option of each group."""

    config: DictConfig
    chosen: dict[str, str]
    missing: set[str]  # keys without a value
    packed: bytes  # the configuration, to be copied in a sixth of the time that deepcopy takes


class Choices:
    """Composes configurations from the command line's overrides and what is chosen on the page.

    Hydra must be initialised, as it is in a task.

    Args:
        base: the overrides that the explorer was started with.

    Attributes:
        options: of each group, those of other packages' plug-ins included.
    """

    def __init__(self, base: Sequence[str]) -> None:
        self.base = [override for override in base if key_of(override).partition(".")[0] not in _NOT_OURS]
        self._composed: Recent[_Composed] = Recent(KEPT)
        self._configs: Recent[Config] = Recent(KEPT)
        self._keys: Recent[list[tuple[str, str]]] = Recent(KEPT)
        loader = GlobalHydra.instance().config_loader()
        self.options = {group: sorted(loader.get_group_options(group)) for group in GROUPS}
        self._first: dict[str, str] = {}
        self._first = self.chosen(State())

    def chosen(self, state: State) -> dict[str, str]:
        """Return the option of each group; a strategy may bring a selector."""
        return self._compose(state).chosen

    def config(self, state: State) -> Config:
        """Compose and check the configuration.

        Raises:
            InputError: something that is not known or does not fit.
        """
        return self._configs.made(state.setting, lambda: self._checked(state))

    def _checked(self, state: State) -> Config:
        whole = self._compose(state)
        refuse_missing(whole.missing - state.knobs.keys())
        composed = pickle.loads(whole.packed)
        known = {key for group in GROUPS for _, key in self.keys(state, group)} | set(KNOBS) | {"explainer.target"}
        for key, value in state.knobs.items():
            if key not in known:
                raise InputError(f"{key} cannot be set here{did_you_mean(key, known)}")
            try:
                OmegaConf.update(composed, key, value, force_add=False)
            except OmegaConfBaseException as error:
                raise InputError(f"{key}: {first_line(error)}") from error
        return check_values(composed)

    def keys(self, state: State, group: str) -> list[tuple[str, str]]:
        """List a plug-in's parameters, each with the key that sets it: a shared knob, or its own."""

        def find() -> list[tuple[str, str]]:
            node: Any = OmegaConf.to_container(self._compose(state).config[group], resolve=False)
            return [(name, _key_of(group, name, value)) for name, value in node.items() if name != "name"]

        return self._keys.made((group, *sorted(state.choices.items())), find)

    def overrides(self, state: State) -> list[str]:
        """Write the overrides that give this state's setting on the command line."""
        own = [f"{group}={option}" for group, option in state.choices.items() if option != self._first.get(group)]
        own += [f"{key}={written(value)}" for key, value in state.knobs.items()]
        return [*self._base(state), *own]

    def command(self, state: State) -> str:
        """Write the command that evaluates this setting on all images, quoted for a shell."""
        return shlex.join(["python", "run.py", *self.overrides(state)])

    def sweep(self, state: State, varied: Mapping[str, Sequence[Value]]) -> str:
        """Write the command of a sweep over the values of some keys (or options of groups)."""
        fixed = [override for override in self.overrides(state) if key_of(override) not in varied]
        grid = [f"{key}={','.join(map(written, dict.fromkeys(values)))}" for key, values in varied.items()]
        return shlex.join(["python", "run.py", "-m", *fixed, *grid])

    def _base(self, state: State) -> list[str]:
        """The explorer's own overrides, without those of another plug-in than the chosen one and of set knobs."""
        changed = {group for group, option in state.choices.items() if option != self._first.get(group)}
        return [
            override
            for override in self.base
            if key_of(override) not in state.knobs
            and not (key_of(override) in changed or key_of(override).partition(".")[0] in changed)
        ]

    def _compose(self, state: State) -> _Composed:
        if not set(state.choices) <= set(GROUPS):
            raise InputError(f"{min(set(state.choices) - set(GROUPS))} cannot be chosen here")
        for group, option in state.choices.items():
            if option not in self.options[group]:
                raise InputError(f"{group}={option!r} is not known{did_you_mean(option, self.options[group])}")
        # Knobs are set later, so that moving one composes nothing.
        unset = State(choices=state.choices)
        overrides = [*self._base(unset), *(f"{group}={option}" for group, option in unset.choices.items())]

        def compose() -> _Composed:
            composed = hydra.compose("config", overrides, return_hydra_config=True)
            chosen = {group: str(composed.hydra.runtime.choices[group]) for group in GROUPS}
            with open_dict(composed):
                del composed["hydra"]  # the larger part, which would be copied for each value of a knob
            return _Composed(composed, chosen, OmegaConf.missing_keys(composed), pickle.dumps(composed))

        return self._composed.made(tuple(overrides), compose)


def _key_of(group: str, name: str, value: Any) -> str:
    """The key that sets a parameter: that of the shared knob that it is taken from, or its own."""
    shared = _SHARED.fullmatch(value) if isinstance(value, str) else None
    return shared[1] if shared is not None and shared[1] in KNOBS else f"{group}.{name}"
