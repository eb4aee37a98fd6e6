"""The fused image encoder computes what segment-anything's own encoder computes."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from gradsam_exp.segmenters import encoder as fused
from gradsam_exp.segmenters.compact import build_compact
from gradsam_exp.segmenters.encoder import encode_frames
from gradsam_exp.segmenters.sam import SamSegmenter
from tests.faults.counts import only_soaking


def small(**options: object) -> ImageEncoderViT:
    """A grid of 8×8 tokens, windows of 3 (so that they are padded) and one global block, all positions random."""
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=128, embed_dim=24, depth=3, num_heads=3, out_chans=16, window_size=3, global_attn_indexes=(1,),
        **{"use_rel_pos": True, **options},
    )  # fmt: skip
    for name, parameter in encoder.named_parameters():
        if "pos_embed" in name or "rel_pos" in name:
            nn.init.normal_(parameter, std=0.5)
    return encoder.eval().requires_grad_(False)


@pytest.mark.parametrize(
    "options", [{}, {"use_rel_pos": False}, {"use_abs_pos": False}, {"qkv_bias": False}], ids=str
)
@pytest.mark.parametrize("at_once", [1, 10**9], ids=["one head at once", "all"])
def test_equals_upstream(options: dict[str, bool], at_once: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fused, "BIAS_ELEMENTS", at_once)
    encoder = small(**options)
    frames = torch.randn(2, 3, 128, 128)
    expected = encoder(frames)
    assert (encode_frames(encoder, frames)[0] - expected).abs().max() <= 1e-5 * expected.std()


def test_positions_matter_in_that_comparison():
    encoder, frames = small(), torch.randn(1, 3, 128, 128)
    expected = encoder(frames)
    for name, parameter in encoder.named_parameters():
        if "rel_pos" in name:
            nn.init.zeros_(parameter)
    assert (encode_frames(encoder, frames)[0] - expected).abs().max() > 0.1 * expected.std()


def test_bf16_loses_about_a_hundredth():
    def encoded(precision: str) -> torch.Tensor:
        torch.manual_seed(0)
        segmenter = SamSegmenter(build_compact, "random", precision=precision)
        segmenter.load(torch.device("cpu"))
        return segmenter.encode(torch.randint(0, 256, (2, 3, 48, 64), dtype=torch.uint8)).levels[0]

    exact, rounded = encoded("fp32"), encoded("bf16")
    assert rounded.dtype == torch.float32
    loss = (rounded - exact).std() / exact.std()
    assert 1e-4 < loss < 0.02


@pytest.mark.slow
@only_soaking
def test_compiled_is_the_same():
    encoder, frames = small(), torch.randn(2, 3, 128, 128)
    expected = encoder(frames)
    assert (torch.compile(encode_frames)(encoder, frames)[0] - expected).abs().max() <= 1e-4 * expected.std()
