"""Compact SAM on EfficientNet-Lite0: features are timm's, levels reach masks, files say what they are."""

from pathlib import Path

import pytest
import timm
import torch

from gradsam_exp import weights
from gradsam_exp.errors import InputError
from gradsam_exp.segmenters.checkpoints import load_segmenter
from gradsam_exp.segmenters.compact import build_compact
from gradsam_exp.segmenters.compact_lite import CHANNELS, build_compact_lite
from gradsam_exp.segmenters.decoder import predict_masks
from gradsam_exp.weights.imagenet import imagenet_file, imagenet_state, in_order


def test_the_pretrained_features_are_timms_with_the_wheels_weights():
    sam = build_compact_lite(pretrained=True)
    encoder = sam.image_encoder
    reference = timm.create_model("tf_efficientnet_lite0", features_only=True).eval()
    full = timm.create_model("tf_efficientnet_lite0").state_dict()
    given = imagenet_state(full)
    reference.load_state_dict(
        {name: value for name, value in given.items() if name in reference.state_dict()}, strict=False
    )
    image = torch.randint(0, 256, (2, 3, 256, 256)).float()
    with torch.no_grad():
        expected = reference(image / 127.5 - 1)[1:]
        seen = []
        hooks = [
            encoder.pretrained["stages"][stage].register_forward_hook(lambda _, __, out: seen.append(out))
            for stage in (1, 2, 4, 6)
        ]
        encoder(sam.preprocess(image))
        for hook in hooks:
            hook.remove()
    assert [one.shape[1] for one in seen] == list(CHANNELS)
    for one, other in zip(seen, expected, strict=True):
        assert (one - other).abs().max() < 1e-3 * other.abs().max()


def test_it_has_three_levels_and_fewer_than_eight_million_parameters():
    sam = build_compact_lite()
    assert sum(parameter.numel() for parameter in sam.parameters()) < 8e6
    levels = sam.image_encoder(torch.zeros(1, 3, 256, 256))
    assert [tuple(level.shape) for level in levels] == [(1, 128, 16, 16), (1, 32, 32, 32), (1, 16, 64, 64)]


def test_training_changes_neither_the_first_stages_nor_the_statistics_of_batch_norms():
    encoder = build_compact_lite().image_encoder.train()
    before = {name: value.clone() for name, value in encoder.named_buffers()}
    sum(level.square().mean() for level in encoder(torch.randn(2, 3, 256, 256))).backward()
    assert all(torch.equal(value, before[name]) for name, value in encoder.named_buffers())
    without = {name for name, parameter in encoder.named_parameters() if parameter.grad is None}
    parts = ("pretrained.stem.", "pretrained.stages.0.", "pretrained.stages.1.")
    assert without == {name for name, _ in encoder.named_parameters() if name.startswith(parts)}


def test_fusing_changes_outputs_by_rounding_alone():
    encoder = build_compact_lite(pretrained=True).image_encoder.requires_grad_(False)
    frames = torch.randn(1, 3, 256, 256)
    before = encoder(frames)
    encoder.fuse()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in encoder.modules())
    for one, other in zip(before, encoder(frames), strict=True):
        assert (one - other).abs().max() < 1e-3 * one.std()


def test_levels_of_zeros_change_nothing_and_others_do():
    sam = build_compact()
    torch.manual_seed(0)
    embeddings, sparse = torch.randn(2, 128, 16, 16), torch.randn(2, 2, 128)
    dense = torch.zeros(2, 128, 16, 16)
    fine = [torch.randn(2, 32, 32, 32), torch.randn(2, 16, 64, 64)]
    with torch.no_grad():
        plain, scores = predict_masks(sam, [embeddings], sparse, dense)
        same, _ = predict_masks(sam, [embeddings, *(0 * one for one in fine)], sparse, dense)
        changed, same_scores = predict_masks(sam, [embeddings, *fine], sparse, dense)
    assert torch.equal(plain, same)
    assert (plain - changed).abs().max() > 0.1 * plain.std()
    assert torch.equal(scores, same_scores)


@pytest.fixture(scope="module")
def lite(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("lite") / "lite.safetensors"
    return weights.save_weights(
        path, build_compact_lite().state_dict(), {"kind": "compact", "architecture": "lite0"}
    )


def test_a_file_says_its_architecture(lite: Path, tmp_path: Path):
    segmenter = load_segmenter("compact", checkpoint=lite)
    images = torch.randint(0, 256, (3, 3, 48, 64), dtype=torch.uint8)
    assert [tuple(level.shape[1:]) for level in segmenter.encode(images).levels] == [
        (128, 16, 16),
        (32, 32, 32),
        (16, 64, 64),
    ]
    assert len(load_segmenter("compact_drawn").encode(images).levels) == 1
    other = weights.save_weights(
        tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {"kind": "compact", "architecture": "y"}
    )
    with pytest.raises(InputError, match="architecture 'y', which this version does not know"):
        load_segmenter("compact", checkpoint=other)


def test_weights_of_another_network_are_refused():
    state = {"conv": torch.zeros(3, 3)}
    with pytest.raises(InputError, match="are not those of timm's tf_efficientnet_lite0"):
        in_order(state, {"other": torch.zeros(3, 4)})
    assert imagenet_file().suffix == ".pth"
