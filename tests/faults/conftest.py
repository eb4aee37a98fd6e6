"""Commands as a person gives them."""

from tests.e2e.conftest import random_weights, run  # noqa: F401  (fixtures)
