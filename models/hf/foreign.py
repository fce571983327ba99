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
        "alibi": (False,),
        "attention_bias": (False,),
        "attention_k_eq_v": (False,),
        "attention_multiplier": (),
        "attention_out_bias": (False,),
        "attn_logit_softcapping": (),
        "attn_output_gate": (False,),
        "clip_qkv": (),
        "embedding_multiplier": (1,),
        "enable_moe_block": (False,),
        "final_logit_softcapping": (),
        "hidden_size_per_layer_input": (0,),
        "kv_lora_rank": (0,),
        "logit_scale": (1,),
        "logits_scaling": (1,),
        "mlp_bias": (False,),
        "moe_intermediate_size": (0,),
        "n_routed_experts": (0,),
        "no_rope_layers": ([],),
        "num_experts": (0, 1),
        "num_kv_shared_layers": (0,),
        "num_local_experts": (0, 1),
        "parallel_residual": (False,),
        "partial_rotary_factor": (1,),
        "per_layer_config": ({},),
        "position_embedding_type": ("rope", "rotary", "absolute"),
        "qk_layernorm": (False,),
        "query_pre_attn_scalar": (),
        "residual_multiplier": (1,),
        "rope_local_base_freq": (),
        "shared_intermediate_size": (0,),
        "use_bias": (False,),
        "use_bidirectional_attention": (False,),
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
