"""What a test can see of a network from outside."""

from __future__ import annotations

from torch import nn


def held(network: nn.Module) -> list[dict[str, object]]:
    """What every module holds: its attributes' names, and the keys of those that are dictionaries, hooks included.

    Equal before and after where nothing was left behind.
    """
    return [
        {name: list(value) if isinstance(value, dict) else None for name, value in vars(module).items()}
        for module in network.modules()
    ]
