"""Small random models of transformers, as `save_pretrained` writes them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

SIDES = {"sam": 128, "sam_hq": 128, "sam2": 128, "edgetam": 128, "sam3_tracker": 112}
"""Side of each kind's input, px."""


def build(kind: str) -> nn.Module:
    """Make a model with random weights, those included that training starts at zero: they would hide errors."""
    import transformers as t
    from transformers.models.edgetam import configuration_edgetam as edgetam
    from transformers.models.sam import configuration_sam as sam
    from transformers.models.sam2 import configuration_sam2 as sam2
    from transformers.models.sam3 import configuration_sam3 as sam3
    from transformers.models.sam3_tracker import configuration_sam3_tracker as tracker
    from transformers.models.sam_hq import configuration_sam_hq as hq

    side, feature_sizes = SIDES[kind], [[32, 32], [16, 16], [8, 8]]
    decoder = {"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 32}
    vit = {
        "hidden_size": 24, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 48,
        "image_size": side, "window_size": 3, "global_attn_indexes": [1], "num_pos_feats": 16,
    }  # fmt: skip
    prompts = {"hidden_size": 32, "image_size": side, "mask_input_channels": 4}
    torch.manual_seed(0)
    if kind == "sam":
        prompts |= {"image_embedding_size": 8}
        model: nn.Module = t.SamModel(
            t.SamConfig(
                vision_config=sam.SamVisionConfig(**vit),
                prompt_encoder_config=sam.SamPromptEncoderConfig(**prompts),
                mask_decoder_config=sam.SamMaskDecoderConfig(**decoder, layer_norm_eps=1e-5),
            )
        )
    elif kind == "sam_hq":
        prompts |= {"image_embedding_size": 8}
        model = t.SamHQModel(
            t.SamHQConfig(
                vision_config=hq.SamHQVisionConfig(**vit),
                prompt_encoder_config=hq.SamHQPromptEncoderConfig(**prompts),
                mask_decoder_config=hq.SamHQMaskDecoderConfig(**decoder, vit_dim=24),
            )
        )
    elif kind == "sam2":
        hiera = sam2.Sam2HieraDetConfig(
            hidden_size=8,
            image_size=[side, side],
            blocks_per_stage=[1, 1, 2, 1],
            embed_dim_per_stage=[8, 16, 32, 64],
            num_attention_heads_per_stage=[1, 1, 2, 4],
            window_size_per_stage=[8, 4, 8, 4],
            global_attention_blocks=[3],
        )
        vision = sam2.Sam2VisionConfig(
            backbone_config=hiera,
            backbone_channel_list=[64, 32, 16, 8],
            backbone_feature_sizes=feature_sizes,
            fpn_hidden_size=32,
        )
        model = t.Sam2Model(
            t.Sam2Config(
                vision_config=vision,
                prompt_encoder_config=sam2.Sam2PromptEncoderConfig(**prompts),
                mask_decoder_config=sam2.Sam2MaskDecoderConfig(**decoder),
            )
        )
    elif kind == "edgetam":
        backbone = t.TimmWrapperConfig(
            architecture="repvit_m1",
            model_args={"features_only": True, "out_indices": (0, 1, 2, 3), "in_chans": 3},
        )
        vision = edgetam.EdgeTamVisionConfig(
            backbone_config=backbone, backbone_feature_sizes=feature_sizes, fpn_hidden_size=32
        )
        model = t.EdgeTamModel(
            t.EdgeTamConfig(
                vision_config=vision,
                prompt_encoder_config=edgetam.EdgeTamPromptEncoderConfig(**prompts),
                mask_decoder_config=edgetam.EdgeTamMaskDecoderConfig(**decoder),
            )
        )
    else:
        backbone = sam3.Sam3ViTConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=side,
            pretrain_image_size=side,
            window_size=4,
            global_attn_indexes=[1],
        )
        vision = sam3.Sam3VisionConfig(
            backbone_config=backbone, fpn_hidden_size=32, backbone_feature_sizes=feature_sizes
        )
        model = t.Sam3TrackerModel(
            t.Sam3TrackerConfig(
                vision_config=vision,
                prompt_encoder_config=tracker.Sam3TrackerPromptEncoderConfig(**prompts),
                mask_decoder_config=tracker.Sam3TrackerMaskDecoderConfig(**decoder),
            )
        )
    frequencies = torch.randn(2, 16)  # as in trained models; random ones are so high that they amplify rounding
    for name, value in model.state_dict().items():
        if name.endswith("positional_embedding"):
            value.copy_(frequencies)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            table = any(word in name for word in ("embed", "token", "pos"))
            nn.init.normal_(parameter, std=0.3 if table else parameter[0].numel() ** -0.5)
    return model.eval()


def processor(kind: str) -> object:
    """Make the processor that belongs to a model of `build`."""
    import transformers as t

    side = SIDES[kind]
    square = {"height": side, "width": side}
    if kind in ("sam", "sam_hq"):
        own = t.SamImageProcessor(size={"longest_edge": side}, pad_size=square)
        return t.SamProcessor(own) if kind == "sam" else t.SamHQProcessor(own)
    if kind == "sam3_tracker":
        return t.Sam3TrackerProcessor(t.Sam3ImageProcessor(size=square))
    return t.Sam2Processor(t.Sam2ImageProcessor(size=square))


def saved(kind: str, folder: Path) -> Path:
    """Save model and processor in a folder."""
    build(kind).save_pretrained(folder)
    processor(kind).save_pretrained(folder)
    return folder
