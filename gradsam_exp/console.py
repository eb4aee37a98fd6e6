"""This module holds the terminal that everything is printed on."""

from rich.console import Console

console = Console(highlight=False, markup=False, emoji=False)  # brackets and colons of names are text
