"""Orders in which training reads a data set."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler


class FreshSamples(Sampler[int]):
    """New indices every epoch, for data sets that can draw any image: epoch ``e`` starts at ``e·length``.

    Lightning calls `set_epoch`; epoch 0 is the data set as it is.
    """

    def __init__(self, length: int) -> None:
        self.length, self.epoch = length, 0

    def set_epoch(self, epoch: int) -> None:
        """Move on to the given epoch's indices."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.epoch * self.length, (self.epoch + 1) * self.length))

    def __len__(self) -> int:
        return self.length
