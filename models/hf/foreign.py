"""Keys that change results in some family: one that a model's own family doesn't read is refused by name.

So a model relabelled as another can't slip through: transformers would ignore the key, and compute something else than
what the weights were made for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from ttsim.files.reading import shown

# Each key with the values at which it changes nothing, beside null.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "add_bias_linear": (False,),
        "add_qkv_bias": (False,),
        "alibi": (False,),
        "attention_bias": (False,),
        "attention_chunk_size": (),
        "attention_in_multiplier": (1,),
        "attention_k_eq_v": (False,),
        "attention_multiplier": (),
        "attention_out_bias": (False,),
        "attention_out_multiplier": (1,),
        "attention_scale": (),
        "attention_sinks": (False,),
        "attn_logit_softcap": (),
        "attn_logit_softcapping": (),
        "attn_output_gate": (False,),
        "attn_scale": (),
        "attn_temperature_tuning": (False, 0),
        "causal": (True,),
        "clip_qkv": (),
        "dim_model_base": (),
        "emb_scale": (1,),
        "embedding_multiplier": (1,),
        "embedding_scale": (1,),
        "enable_moe_block": (False,),
        "final_logit_softcap": (),
        "final_logit_softcapping": (),
        "hidden_activation": (),
        "hidden_size_per_layer_input": (0,),
        "is_causal": (True,),
        "is_encoder_decoder": (False,),
        "key_multiplier": (1,),
        "kv_lora_rank": (0,),
        "layer_scale": (False,),
        "lm_head_bias": (False,),
        "lm_head_multiplier": (1,),
        "logit_scale": (1,),
        "logits_scaling": (1,),
        "logits_soft_cap": (),
        "mlp_bias": (False,),
        "mlp_multipliers": ([1, 1],),
        "moe_intermediate_size": (0,),
        "mup_attn_multiplier": (1,),
        "mup_width_multiplier": (1,),
        "n_routed_experts": (0,),
        "no_rope_layer_interval": (),
        "no_rope_layers": ([],),
        "nope_layer_interval": (),
        "num_experts": (0, 1),
        "num_kv_shared_layers": (0,),
        "num_local_experts": (0, 1),
        "parallel_residual": (False,),
        "partial_rotary_factor": (1,),
        "per_layer_config": ({},),
        "position_embedding_type": ("rope", "rotary", "absolute"),
        "q_lora_rank": (0,),
        "qk_layernorm": (False,),
        "qk_norm": (False,),
        "query_pre_attn_scalar": (),
        "residual_multiplier": (1,),
        "residual_scale": (1,),
        "rope_interleave": (False,),
        "rope_interleaved": (False,),
        "rope_local_base_freq": (),
        "rope_ratio": (1,),
        "rotary_dim": (),
        "rotary_emb_fraction": (1,),
        "rotary_pct": (1,),
        "rotary_percent": (1,),
        "scale_depth": (),
        "scale_emb": (1,),
        "shared_intermediate_size": (0,),
        "use_bias": (False,),
        "use_bidirectional_attention": (False,),
        "use_double_wide_mlp": (False,),
        "use_mup": (False,),
        "use_parallel_residual": (False,),
        "use_qk_norm": (False,),
        "use_qkv_bias": (False,),
    }
)


def refuse_foreign(data: Mapping[str, Any], read: Collection[str], family: str) -> None:
    """Raises ValueError for a key that changes results and that nothing has read."""
    for key, neutral in _NEUTRAL.items():
        value = data.get(key)
        if value is not None and key not in read and value not in neutral:
            raise ValueError(f"{key}={shown(value)} is not supported for model_type={family!r}")
