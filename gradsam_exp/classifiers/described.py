"""`Described` describes a classifier of any package; `Mapped` one whose outputs are joined to others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import nn

from gradsam_exp.classifiers.base import ClassifierSource
from gradsam_exp.classifiers.classifier import ImageClassifier, without_weights
from gradsam_exp.classifiers.networks import Architecture, with_head
from gradsam_exp.classifiers.transform import Transform
from gradsam_exp.digest import digest
from gradsam_exp.errors import InputError, harmless

Side = Annotated[int, Field(ge=1)]
Size = tuple[Side, Side] | Side | Literal["own"] | None
"""``model.size``: ``(height, width)`` px, one number for both, ``own``: the image's; None: as the weights want."""


@dataclass(frozen=True)
class Described:
    """A described classifier says all about a network, which is built and given its weights when it is needed.

    Attributes:
        backbone: the network's name, for messages and tables.
        class_names: what the outputs mean, in order; empty if that is not known, or if there are no weights.
        transform: from an image to network input.
        digest: of everything that the logits depend on.
        architecture: what `ImageClassifier` keeps in a file; None for what cannot be trained.
        build: makes the network, its values at random or missing.
        load_network: makes the network with its weights; None if it has none yet.
        path: the file with the weights, if they are one.
    """

    backbone: str
    class_names: tuple[str, ...]
    transform: Transform
    digest: str
    architecture: Architecture | None
    build: Callable[[], nn.Module]
    load_network: Callable[[], nn.Module] | None
    path: Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", tuple(map(harmless, self.class_names)))

    @property
    def size(self) -> tuple[int, int] | None:
        """Return ``(height, width)`` px to which images are resized; None keeps their own."""
        size = self.transform.size
        return None if size is None else (int(size[0]), int(size[1]))

    def check_ready(self) -> None:
        """Refuse what has no weights or no names; see `ClassifierSource.check_ready`."""
        if self.load_network is None:
            raise InputError(
                f"model: {self.backbone} has random weights, which explain nothing: give model.checkpoint, "
                "or published weights; task=train trains it"
            )
        if not self.class_names:
            raise InputError(
                f"model: what the outputs of {self.backbone} mean is not known: give model.names, a file with a "
                "class name a line or a list of names, in the outputs' order"
            )

    def outline(self) -> ImageClassifier:
        """Build the classifier without weights, on the meta device, its network in eval mode."""
        model = self._around(without_weights(self.build))
        model.backbone.eval()
        return model

    def load(self) -> ImageClassifier:
        """Build the classifier with its weights, in eval mode; see `ClassifierSource.load`."""
        self.check_ready()
        return self._around(self.network()).eval().requires_grad_(False)

    def network(self, classes: int | None = None) -> nn.Module:
        """Build the network with its weights, or at random where there are none; in float32.

        Args:
            classes: give it a new last layer with so many outputs; None keeps it as it is.
        """
        network = self.build() if self.load_network is None else self.load_network()
        return (network if classes is None else with_head(network, classes)).float()

    def _around(self, network: nn.Module) -> ImageClassifier:
        return ImageClassifier(self.architecture or {}, self.class_names, self.transform, network=network)


@dataclass(frozen=True)
class Mapped:
    """A mapped classifier answers with classes of the data, each of which is one or several of the network's.

    The logit of a class is the logsumexp of the logits of its own outputs: their probabilities under the network's
    softmax add up. Outputs that belong to no class are left out.

    Attributes:
        source: the classifier.
        class_names: of the data.
        outputs: for each of them, the ids of the network's classes.
    """

    source: ClassifierSource
    class_names: tuple[str, ...]
    outputs: tuple[tuple[int, ...], ...]

    @property
    def path(self) -> Path | None:
        """Return the file with the weights."""
        return self.source.path

    @property
    def digest(self) -> str:
        """Return a hash of everything that the logits depend on."""
        return digest([self.source.digest, self.class_names, self.outputs])

    @property
    def backbone(self) -> str:
        """Return the network's name."""
        return self.source.backbone

    @property
    def size(self) -> tuple[int, int] | None:
        """Return ``(height, width)`` px to which images are resized; None keeps their own."""
        return self.source.size

    def check_ready(self) -> None:
        """Refuse what has no weights or no names."""
        self.source.check_ready()

    def outline(self) -> ImageClassifier:
        """Build the classifier without weights, on the meta device."""
        return self._joined(self.source.outline())

    def load(self) -> ImageClassifier:
        """Build the classifier with its weights, in eval mode."""
        return self._joined(self.source.load())

    def _joined(self, model: ImageClassifier) -> ImageClassifier:
        model.join_outputs(self.class_names, self.outputs)
        return model


def changed_transform(transform: Transform, *, size: Size = None, **given: Any) -> Transform:
    """Replace what was given of ``size``, ``mean``, ``std`` and ``interpolation``; None keeps what there is."""
    kept = {name: value for name, value in given.items() if value is not None}
    if size is not None:
        kept["size"] = None if size == "own" else (size, size) if isinstance(size, int) else size
    return replace(transform, **kept)


def find_names(given: str | Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    """Read ``model.names``: a list, or a file with a name a line; None keeps those that are known.

    Raises:
        InputError: no such file, or a name that comes twice.
    """
    if given is None:
        return tuple(known)
    names = tuple(given)
    if isinstance(given, str):
        path = Path(given).expanduser()
        try:
            names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"model.names={path} cannot be read ({error}): give a text file, a name a line"
            ) from error
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        raise InputError(f"model.names has {twice!r} twice")
    return names
