"""A segmenter that is not asked the same question twice."""

from __future__ import annotations

from random import Random

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from xxhash import xxh3_128, xxh3_128_digest

from gradsam_exp.segmenters.base import Embeddings, Segmenter
from gradsam_exp.types import Prompts, Segmentation

Answer = tuple[Tensor, Tensor]  # logits and scores of one query


class CachedSegmenter:
    """A loaded segmenter whose answers are kept in memory: most prompts of a sweep's jobs are those of another.

    A threshold that is moved a little leaves the points of most images where they were; only the others are
    decoded. Answers are found by content: the embedding, and the query's points, labels, box and mask. They are
    the segmenter's own but for rounding (about 1e-7), which depends on what is decoded together.

    Args:
        segmenter: what answers new questions.
        max_bytes: of answers that are kept, on the segmenter's device. Above this any may go: runs ask in the same
            order, so the least recently used one would be the next that is needed.

    Attributes:
        asked, decoded: queries so far, and how many of them the segmenter itself has answered.
    """

    def __init__(self, segmenter: Segmenter, max_bytes: int) -> None:
        self.segmenter, self.max_bytes = segmenter, max_bytes
        self.accepts, self.digest = segmenter.accepts, segmenter.digest
        self.load, self.encode = segmenter.load, segmenter.encode
        self.asked = self.decoded = 0
        self._answers: dict[bytes, Answer] = {}
        self._kept: list[bytes] = []
        self._bytes = 0
        self._random = Random(0)  # equal commands do equal things

    @property
    def device(self) -> torch.device:
        """See `Segmenter.device`."""
        return self.segmenter.device

    def decode(self, embeddings: Embeddings, prompts: Prompts) -> Segmentation:
        """See `Segmenter.decode`."""
        keys = _keys(embeddings, prompts)
        known = [self._answers.get(key) for key in keys]
        new = [row for row, answer in enumerate(known) if answer is None]
        self.asked, self.decoded = self.asked + len(keys), self.decoded + len(new)
        if len(new) == len(keys):
            answer = self.segmenter.decode(embeddings, prompts)
        else:
            answer = self._completed(embeddings, prompts, known, new)
        self._keep(keys, answer, new)
        return answer

    def _completed(
        self, embeddings: Embeddings, prompts: Prompts, known: list[Answer | None], new: list[int]
    ) -> Segmentation:
        """What is known, and answers to the new queries."""
        rows: list[Answer | None] = list(known)
        if new:
            fresh = self.segmenter.decode(embeddings, prompts[torch.tensor(new)])
            for row, logits, scores in zip(new, fresh.logits, fresh.predicted_iou, strict=True):
                rows[row] = logits, scores
        found = [row for row in rows if row is not None]
        logits = torch.stack([logits for logits, _ in found])
        return Segmentation(logits, torch.stack([scores for _, scores in found]), prompts.image_index)

    def _keep(self, keys: list[bytes], answer: Segmentation, new: list[int]) -> None:
        for row in new:
            if keys[row] not in self._answers:
                kept = (
                    answer.logits[row].clone(),
                    answer.predicted_iou[row].clone(),
                )  # not a view of the whole batch
                self._answers[keys[row]] = kept
                self._kept.append(keys[row])
                self._bytes += sum(part.nbytes for part in kept)
        while self._bytes > self.max_bytes:
            at = self._random.randrange(len(self._kept))
            self._kept[at], self._kept[-1] = self._kept[-1], self._kept[at]
            self._bytes -= sum(part.nbytes for part in self._answers.pop(self._kept.pop()))

    def to_original(
        self, logits: Float[Tensor, "masks low low"], embeddings: Embeddings
    ) -> Bool[Tensor, "masks height width"]:
        """See `Segmenter.to_original`."""
        return self.segmenter.to_original(logits, embeddings)

    def to_low_res(
        self, values: Float[Tensor, "maps height width"], embeddings: Embeddings
    ) -> Float[Tensor, "maps low low"]:
        """See `Segmenter.to_low_res`."""
        return self.segmenter.to_low_res(values, embeddings)


def _keys(embeddings: Embeddings, prompts: Prompts) -> list[bytes]:
    """A name for each query, made of everything that its answer depends on."""
    sizes = str((embeddings.input_size, embeddings.original_size)).encode()
    levels = [level.cpu().contiguous().numpy() for level in embeddings.levels]
    images = [b"".join(xxh3_128_digest(value.data) for value in values) for values in zip(*levels, strict=True)]
    parts = (prompts.points, prompts.labels, prompts.boxes, prompts.mask_logits)
    columns = [None if part is None else part.cpu().contiguous().numpy() for part in parts]
    keys = []
    for row, image in enumerate(prompts.image_index.tolist()):
        state = xxh3_128(sizes + images[image])
        for column in columns:
            state.update(b"-" if column is None else column[row].data)
        keys.append(state.digest())
    return keys
