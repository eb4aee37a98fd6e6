"""This module builds MobileSAM, Segment Anything with a small image encoder.

Zhang et al.: *Faster Segment Anything: Towards Lightweight SAM for Mobile Applications*, 2023. The encoder is
TinyViT (Wu et al., ECCV 2022), whose code the package ``mobilesam-mirror`` holds; all else is Segment Anything's.
"""

import warnings

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam

from gradsam_exp.weights.hub import needed


def build_mobile_sam() -> Sam:
    """Build a `Sam` with MobileSAM's image encoder, which upstream calls ``vit_t``, and fresh random weights.

    Raises:
        InputError: if ``mobile_sam`` is not installed.
    """
    from timm.models import list_models, register_model, tiny_vit  # noqa: PLC0415  (slow to import)

    own = [getattr(tiny_vit, name) for name in list_models(module="tiny_vit")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mobile = needed("mobile_sam", "mobile_sam").sam_model_registry
        for network in own:  # importing it has put its networks under the names of timm's
            register_model(network)
    sam = sam_model_registry["vit_b"]()
    with torch.device("cpu"):  # it reads numbers while it is built
        sam.image_encoder = mobile["vit_t"]().image_encoder
    return sam
