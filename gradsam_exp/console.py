"""This module holds the terminal that everything is printed on."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from gradsam_exp.errors import harmless


class _Terminal(Console):
    """Prints what would act on a terminal as an escape, see `harmless`, but for rich's own colours and cursor."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render an object to pieces of text."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else harmless(text, lines=True), style, control)


console = _Terminal(highlight=False, markup=False, emoji=False)  # brackets and colons of names are text
