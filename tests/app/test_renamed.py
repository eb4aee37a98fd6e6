"""Old names on the command line are refused with the new ones."""

from __future__ import annotations

import pytest

from gradsam_exp.app.renamed import refuse_renamed
from gradsam_exp.errors import InputError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pipeline=ensemble"], "pipeline=ensemble is no longer known: use pipeline=fg explainer=ensemble"),
        (["-m", "pipeline=fg,ensemble"], "use pipeline=fg explainer=ensemble"),
        (["-m", "pipeline=choice(fg,ensemble)"], "use pipeline=fg explainer=ensemble"),
        (["+sam.views=8"], r"sam\.views is no longer known: use sam\.tta"),
        (
            ["pipeline=[fg,fgbg]"],
            r"a run has one pipeline; to run with each of them: python run\.py -m pipeline=fg,fgbg",
        ),
        (["experiment=views"], "use experiment=tta"),
        (["task=background_points"], "make answer"),
        (["task=report", "task.explain=false"], r"task\.explain is no longer known"),
    ],
)
def test_an_old_name_is_refused_with_the_new_one(arguments: list[str], message: str):
    with pytest.raises(InputError, match=message):
        refuse_renamed(arguments)


def test_what_is_known_passes():
    refuse_renamed(["-m", "pipeline=fg,fgbg", "explainer=ensemble", "task=explain", "sam.tta=1,8"])
