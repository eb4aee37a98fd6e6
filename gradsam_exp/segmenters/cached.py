"""This module keeps what a segmenter has decoded, so that no query is decoded twice."""

from random import Random

import torch
from torch import Tensor
from xxhash import xxh3_128, xxh3_128_digest

from gradsam_exp.segmenters.base import Embeddings, Segmenter
from gradsam_exp.types import Prompts, Segmentation

Answer = tuple[Tensor, ...]  # of one query: logits, predicted IoU, and the single-mask candidate where it is said


class CachedSegmenter:
    """CachedSegmenter keeps a segmenter's masks in memory: jobs of a sweep share most of their prompts.

    A threshold that is moved a little leaves the points of most images where they were; only the others are
    decoded. Masks are found by content: the embedding, and the query's points, labels, box and mask. They are
    the segmenter's own but for rounding (about 1e-7), which depends on what is decoded together.

    Args:
        segmenter: what decodes new queries.
        max_bytes: at most so many bytes of answers are kept, on the segmenter's device. Above this any may go:
            runs ask in the same order, so the least recently used one would be the next that is needed.

    Attributes:
        asked, decoded: queries so far, and how many of them the segmenter itself has answered.
        kept_bytes: the size of the answers that are kept.
    """

    def __init__(self, segmenter: Segmenter, max_bytes: int) -> None:
        self.segmenter, self.max_bytes = segmenter, max_bytes
        self.accepts, self.provides = segmenter.accepts, segmenter.provides
        self.digest, self.cell = segmenter.digest, segmenter.cell
        self.load, self.encode = segmenter.load, segmenter.encode
        self.to_original, self.to_low_res = segmenter.to_original, segmenter.to_low_res
        self.asked = self.decoded = 0
        self._answers: dict[bytes, Answer] = {}
        self._kept: list[bytes] = []
        self.kept_bytes = 0
        self._random = Random(0)  # equal commands do equal things

    @property
    def device(self) -> torch.device:
        """Return where it runs, see `Segmenter.device`."""
        return self.segmenter.device

    def decode(self, embeddings: Embeddings, prompts: Prompts) -> Segmentation:
        """Answer every query, see `Segmenter.decode`; ask the segmenter only what is new."""
        keys = _keys(embeddings, prompts)
        known = [self._answers.get(key) for key in keys]
        new = [row for row, answer in enumerate(known) if answer is None]
        self.asked, self.decoded = self.asked + len(keys), self.decoded + len(new)
        if len(new) == len(keys):
            answer = self.segmenter.decode(embeddings, prompts)
            for row in new:
                self._keep(keys[row], _answer(answer, row))
            return answer
        if new:
            fresh = self.segmenter.decode(embeddings, prompts[torch.tensor(new)])
            for place, row in enumerate(new):
                known[row] = _answer(fresh, place)
                self._keep(keys[row], _answer(fresh, place))
        logits, predicted_iou, *single = map(torch.stack, zip(*filter(None, known), strict=True))
        return Segmentation(logits, predicted_iou, prompts.example_index, *single)

    def _keep(self, key: bytes, answer: Answer) -> None:
        if key not in self._answers:
            self._answers[key] = tuple(part.clone() for part in answer)  # not a view of the whole batch
            self._kept.append(key)
            self.kept_bytes += sum(part.nbytes for part in answer)
        while self.kept_bytes > self.max_bytes:
            at = self._random.randrange(len(self._kept))
            self._kept[at], self._kept[-1] = self._kept[-1], self._kept[at]
            self.kept_bytes -= sum(part.nbytes for part in self._answers.pop(self._kept.pop()))


def _answer(segmentation: Segmentation, row: int) -> Answer:
    """Take the answer to one query, as views."""
    parts = (segmentation.logits, segmentation.predicted_iou, segmentation.single)
    return tuple(part[row] for part in parts if part is not None)


def _keys(embeddings: Embeddings, prompts: Prompts) -> list[bytes]:
    """Make a key for each query from everything that its answer depends on."""
    levels = [level.cpu().contiguous().numpy() for level in embeddings.levels]
    sizes = torch.cat([embeddings.input_sizes, embeddings.original_sizes], 1).tolist()
    images = [
        str(size).encode() + b"".join(xxh3_128_digest(value.data) for value in values)
        for size, *values in zip(sizes, *levels, strict=True)
    ]
    parts = (prompts.points, prompts.labels, prompts.boxes, prompts.mask_logits)
    columns = [None if part is None else part.cpu().contiguous().numpy() for part in parts]
    keys = []
    for row, image in enumerate(embeddings.images_asked(prompts).tolist()):
        state = xxh3_128(images[image])
        for column in columns:
            state.update(b"-" if column is None else column[row].data)
        keys.append(state.digest())
    return keys
