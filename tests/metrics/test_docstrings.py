"""The examples in the metrics' docstrings run."""

import doctest
import importlib
import pkgutil

import pytest

import gradsam_exp.metrics as package

MODULES = [module.name for module in pkgutil.iter_modules(package.__path__)]
EXAMPLES = {"dice", "leaks", "masks", "points"}


@pytest.mark.parametrize("name", MODULES)
def test_examples_say_what_happens(name: str):
    found = doctest.testmod(importlib.import_module(f"gradsam_exp.metrics.{name}"))
    assert found.failed == 0
    assert (found.attempted > 0) is (name in EXAMPLES)
