"""`Album` is a small data set of random pictures, whose labels are known without looking at them."""

from collections.abc import Sequence

import torch

from gradsam_exp.data.base import Example, ExampleDataset, Sample


class Album(ExampleDataset):
    """One image for each tuple of class ids, ``sizes`` in ``(width, height)`` px."""

    def __init__(
        self,
        class_names: Sequence[str],
        labels: Sequence[tuple[int, ...]],
        sizes: Sequence[tuple[int, int]] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.class_names, self.labels, self.notes = tuple(class_names), list(labels), tuple(notes)
        self.sizes = [(64, 64)] * len(labels) if sizes is None else list(sizes)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        width, height = self.sizes[index]
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
        examples = tuple(Example(label, name=str(k) if k else "") for k, label in enumerate(self.labels[index]))
        return Sample(image, str(index), examples)

    def image_size(self, index: int) -> tuple[int, int]:
        return self.sizes[index]

    def image_labels(self, index: int) -> tuple[int, ...]:
        return self.labels[index]

    @property
    def digest(self) -> str:
        return "album"
