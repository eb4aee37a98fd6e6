"""Image encoders: ours against segment-anything's, in fp32 and in bf16.

``python -m benchmarks.encode --sam vit_b compact``: frames at the encoder's input size on the CPU, random weights
with random positions (upstream starts positions at zero, which would hide errors). The waterfall adds one step
after the other: upstream; fused attention; bf16 autocast; both. The difference is the largest one from upstream's
embeddings, in standard deviations.

``--hf sam2 edgetam``: SAM 2.1 tiny and EdgeTAM in their real size, from pictures of 640×480 px to embeddings; ours
against transformers' own processor and `get_image_embeddings`.

Limits: of ``--sam`` the encoder alone, without reading and resizing images; ``torch.compile`` only if asked for.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable

import torch
import transformers
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from benchmarks.timing import interleaved, report, result
from gradsam_exp.segmenters.checkpoints import load_segmenter
from gradsam_exp.segmenters.compact import build_compact
from gradsam_exp.segmenters.encoder import encode_frames
from gradsam_exp.segmenters.hf import HfSegmenter

MAKE = {"compact": build_compact, **sam_model_registry}


def main() -> None:
    """Time every encoder that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sam", nargs="*", default=["compact", "vit_b"], choices=sorted(MAKE))
    parser.add_argument("--hf", nargs="*", default=[], choices=["sam2", "edgetam"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, help="frames at once; by default 32 for compact, 1 for the others")
    parser.add_argument("--compile", action="store_true", help="add torch.compile to the waterfall")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    for name in arguments.hf:
        _against_transformers(name, arguments.batch or 1, arguments.rounds, torch.device(arguments.device))
    for name in arguments.sam:
        encoder = _randomised(name).to(arguments.device)
        count = arguments.batch or (32 if name == "compact" else 1)
        frames = torch.randn(count, 3, encoder.img_size, encoder.img_size, device=arguments.device)
        contestants = _waterfall(encoder, frames, compiled=arguments.compile)
        with torch.no_grad():
            expected = contestants["upstream"]().float()
            differences = {
                step: float(f"{(call().float() - expected).abs().max() / expected.std():.2g}")
                for step, call in contestants.items()
            }
            seconds = interleaved(contestants, rounds=arguments.rounds, warm_up=0)
        ratios = report(f"{name}: {count} frames of {encoder.img_size} px", seconds, against="upstream")
        result(
            sam=name,
            **{f"speedup_{step.replace(' ', '_')}": round(1 / ratio, 2) for step, ratio in ratios.items()},
            largest_difference=differences,
        )


def _against_transformers(name: str, count: int, rounds: int, device: torch.device) -> None:
    torch.manual_seed(0)
    if name == "sam2":
        model = transformers.Sam2Model(transformers.Sam2Config())  # its default is 2.1 tiny
    else:
        features = {"features_only": True, "out_indices": (0, 1, 2, 3), "in_chans": 3}
        backbone = transformers.TimmWrapperConfig(architecture="repvit_m1", model_args=features)
        vision = transformers.EdgeTamVisionConfig(backbone_config=backbone)
        model = transformers.EdgeTamModel(transformers.EdgeTamConfig(vision_config=vision))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        transformers.Sam2ImageProcessor().save_pretrained(folder)
        segmenter = load_segmenter("hf", id=folder, device=device)
        assert isinstance(segmenter, HfSegmenter)
        model = type(model).from_pretrained(folder).eval().to(device)
        processor = transformers.AutoImageProcessor.from_pretrained(folder)
    images = torch.randint(0, 256, (count, 3, 480, 640), dtype=torch.uint8)

    def theirs() -> list[Tensor]:
        pixels = processor(list(images), input_data_format="channels_first", return_tensors="pt")["pixel_values"]
        return model.get_image_embeddings(pixels.to(device))

    def ours() -> tuple[Tensor, ...]:
        return segmenter.encode(images).levels

    assert all(torch.allclose(*pair, atol=1e-4) for pair in zip(ours(), theirs(), strict=True))
    timed = interleaved({"transformers": _finished(theirs), "ours": _finished(ours)}, rounds=rounds, warm_up=1)
    ratios = report(f"{name}: {count} pictures of 640×480 px", timed, against="transformers")
    result(hf=name, ratio=round(ratios["ours"], 3))


def _finished(call: Callable[[], object]) -> Callable[[], None]:
    def timed() -> None:
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return timed


def _randomised(name: str) -> ImageEncoderViT:
    torch.manual_seed(0)
    encoder = MAKE[name]().image_encoder.eval().requires_grad_(False)
    for parameter, value in encoder.named_parameters():
        if "pos_embed" in parameter or "rel_pos" in parameter:
            nn.init.normal_(value, std=0.2)
    return encoder


def _waterfall(encoder: ImageEncoderViT, frames: Tensor, *, compiled: bool) -> dict[str, Callable[[], Tensor]]:
    def call(
        encode: Callable[[ImageEncoderViT, Tensor], Tensor | tuple[Tensor, ...]], bf16: bool
    ) -> Callable[[], Tensor]:
        def timed() -> Tensor:
            with torch.autocast(frames.device.type, torch.bfloat16, enabled=bf16):
                embeddings = encode(encoder, frames)
            if frames.is_cuda:
                torch.cuda.synchronize()
            return embeddings if isinstance(embeddings, Tensor) else embeddings[0]

        return timed

    steps = {
        "upstream": call(lambda encoder, frames: encoder(frames), False),
        "fused": call(encode_frames, False),
        "bf16": call(lambda encoder, frames: encoder(frames), True),
        "fused bf16": call(encode_frames, True),
    }
    if compiled:
        steps["fused bf16 compiled"] = call(torch.compile(encode_frames), True)
    return steps


if __name__ == "__main__":
    main()
