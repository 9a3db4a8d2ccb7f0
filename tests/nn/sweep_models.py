"""The models of the sweep, small and random: timm's, torchvision's and Hugging Face's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torchvision import models as tv

VIT = {"img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 4}
SWIN = {"img_size": 32, "window_size": 4, "embed_dim": 32, "depths": (1, 1), "num_heads": (2, 4)}
STAGES = {"embed_dims": (16, 16, 32, 32), "depths": (1, 1, 1, 1), "num_heads": (2, 2, 4, 4)}
DIMS = {"dims": (16, 16, 32, 32), "depths": (1, 1, 1, 1)}
HIERA = {"img_size": 64, "embed_dim": 16, "stages": (1, 1, 1, 1), "num_heads": 1}

VITS = [
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224",
    "beit_base_patch16_224",
    "beitv2_base_patch16_224",
    "eva02_base_patch14_224",
    "eva02_tiny_patch14_224",
    "eva_giant_patch14_224",
    "vit_relpos_small_patch16_224",
    "vit_relpos_base_patch16_clsgap_224",
    "vit_srelpos_small_patch16_224",
    "xcit_nano_12_p16_224",
    "cait_xxs24_224",
    "convit_tiny",
    "samvit_base_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3",
    "vit_base_patch16_siglip_224",
    "vit_base_patch16_rpn_224",
    "vit_base_patch16_rope_224",
    "vit_base_patch16_rope_mixed_224",
    "vit_wee_patch16_reg1_gap_256",
    "vit_little_patch16_reg1_gap_256",
    "vit_small_patch16_18x2_224",
    "vit_base_patch16_xp_224",
    "aimv2_large_patch14_224",
    "gemma4_vit_167m",
    "qwen3_vit_88m",
    "naflexvit_base_patch16_gap",
    "visformer_tiny",
]

# Arguments of timm.create_model.
TIMM: dict[str, dict[str, Any]] = {
    **dict.fromkeys(VITS, VIT),
    "deepseek_vit_412m": {**VIT, "img_size": 28, "embed_dim": 48},
    "swin_tiny_patch4_window7_224": SWIN,
    "swinv2_tiny_window8_256": SWIN,
    "swinv2_cr_tiny_224": SWIN,
    "pvt_v2_b0": STAGES,
    "davit_tiny": STAGES,
    "tiny_vit_5m_224": STAGES,
    "twins_svt_small": {**STAGES, "img_size": 64},
    "twins_pcpvt_small": {**STAGES, "img_size": 64},
    "hiera_tiny_224": HIERA,
    "convnext_atto": DIMS,
    "convnextv2_atto": DIMS,
    "edgenext_xx_small": DIMS,
    "mobilevitv2_050": {"img_size": 64},
    "mobilevit_xxs": {"img_size": 64},
    "efficientformerv2_s0": {"img_size": 64},
    "shvit_s1": {},
    "fastvit_t8": {},
    "poolformer_s12": {},
    "resnet18": {},
}

TV_SWIN = ([4, 4], 16, [1, 1], [2, 4], [4, 4])
TV_SWIN3D = ([2, 4, 4], 16, [1, 1], [2, 4], [2, 4, 4])
BLOCK = tv.convnext.CNBlockConfig


def _swin_v2() -> nn.Module:
    v2 = tv.swin_transformer
    return v2.SwinTransformer(
        *TV_SWIN, block=v2.SwinTransformerBlockV2, downsample_layer=v2.PatchMergingV2
    )


# What makes a model, and the shape of its input.
TORCHVISION: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "vit": (lambda: tv.VisionTransformer(32, 8, 1, 2, 16, 32), (2, 3, 32, 32)),
    "swin": (lambda: tv.SwinTransformer(*TV_SWIN), (2, 3, 32, 32)),
    "swin_v2": (_swin_v2, (2, 3, 64, 64)),
    "swin3d": (lambda: tv.video.SwinTransformer3d(*TV_SWIN3D), (2, 3, 4, 32, 32)),
    "maxvit": (lambda: tv.MaxVit((64, 64), 8, 2, [8, 16], [1, 1], 8, 0.0), (2, 3, 64, 64)),
    "convnext": (lambda: tv.ConvNeXt([BLOCK(16, 32, 1), BLOCK(32, None, 1)]), (2, 3, 32, 32)),
    "resnet18": (tv.resnet18, (2, 3, 64, 64)),
    "densenet121": (tv.densenet121, (2, 3, 64, 64)),
    "mobilenet_v3_small": (tv.mobilenet_v3_small, (2, 3, 64, 64)),
    "mnasnet0_5": (tv.mnasnet0_5, (2, 3, 64, 64)),
    "shufflenet_v2_x0_5": (tv.shufflenet_v2_x0_5, (2, 3, 64, 64)),
    "efficientnet_b0": (tv.efficientnet_b0, (2, 3, 64, 64)),
    "regnet_y_400mf": (tv.regnet_y_400mf, (2, 3, 64, 64)),
}

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**SIZES, "intermediate_size": 64, "vocab_size": 64, "max_position_embeddings": 64}
LLM = {**TEXT, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MOE = {**LLM, "num_local_experts": 4, "num_experts_per_tok": 2}
IMAGE = {**SIZES, "intermediate_size": 64, "image_size": 32, "patch_size": 8}
LAYERS = {"encoder_layers": 2, "decoder_layers": 2, "vocab_size": 64, "d_model": 32}
HEADS = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
SEQ2SEQ = {**LAYERS, **HEADS, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
HF_SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1]}
HF_SWIN |= {"num_heads": [2, 4], "window_size": 4}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 64}
OPT = {**SIZES, "ffn_dim": 64, "vocab_size": 64, "word_embed_proj_dim": 32}
MAMBA2 = {**SIZES, "state_size": 8, "vocab_size": 64, "num_heads": 8, "head_dim": 8, "n_groups": 1}
CONVS = {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1]}
SEGFORMER = {**CONVS, "decoder_hidden_size": 16, "num_attention_heads": [1, 2, 4, 4]}

IDS = {"input_ids": torch.arange(3, 19).reshape(2, 8)}
PAIRS = {**IDS, "decoder_input_ids": torch.arange(3, 11).reshape(2, 4)}
PIXELS = {"pixel_values": torch.linspace(-1, 1, 6144).reshape(2, 3, 32, 32)}

# Names of the class and of its config, arguments of that, inputs.
HUGGING_FACE: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", LLM, IDS),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**LLM, "head_dim": 8}, IDS),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**LLM, "head_dim": 8}, IDS),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", LLM, IDS),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", TEXT, IDS),
    "opt": ("OPTForCausalLM", "OPTConfig", OPT, IDS),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", MOE, IDS),
    "phimoe": ("PhimoeForCausalLM", "PhimoeConfig", MOE, IDS),
    "mamba2": ("Mamba2ForCausalLM", "Mamba2Config", MAMBA2, IDS),
    "rwkv": ("RwkvForCausalLM", "RwkvConfig", TEXT, IDS),
    "bert": ("BertForMaskedLM", "BertConfig", TEXT, IDS),
    "deberta_v2": ("DebertaV2ForMaskedLM", "DebertaV2Config", TEXT, IDS),
    "albert": ("AlbertForMaskedLM", "AlbertConfig", TEXT, IDS),
    "electra": ("ElectraForPreTraining", "ElectraConfig", TEXT, IDS),
    "t5": ("T5ForConditionalGeneration", "T5Config", T5, PAIRS),
    "bart": ("BartForConditionalGeneration", "BartConfig", SEQ2SEQ, PAIRS),
    "vit": ("ViTForImageClassification", "ViTConfig", IMAGE, PIXELS),
    "dinov2": ("Dinov2Model", "Dinov2Config", IMAGE, PIXELS),
    "siglip": ("SiglipVisionModel", "SiglipVisionConfig", IMAGE, PIXELS),
    "swin": ("SwinForImageClassification", "SwinConfig", HF_SWIN, PIXELS),
    "swinv2": ("Swinv2ForImageClassification", "Swinv2Config", HF_SWIN, PIXELS),
    "segformer": ("SegformerForSemanticSegmentation", "SegformerConfig", SEGFORMER, PIXELS),
}
