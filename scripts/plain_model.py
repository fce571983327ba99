"""The transformer in plain JAX float32, without any device op: what the benchmarks compare with."""

import jax
import jax.numpy as jnp

from ttsim.models.cache import KVCache


def plain_rms_norm(x, weight, eps):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * weight


def plain_rotary(x, cos, sin):
    even, odd = x[..., 0::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, odd * cos + even * sin], -1).reshape(x.shape)


def plain_layer(layer, x, positions, keys, values, start, config, frequencies):
    """One decoder layer for x [B, T, d] at positions [B, T]; the cache is [B, K, S, h]. Decode has T = 1."""
    b, t, _ = x.shape
    k, g, h = config.num_kv_heads, config.queries_per_kv, config.head_dim
    angles = positions[..., None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    y = plain_rms_norm(x, layer.attention_norm_d[...], config.rms_norm_eps)
    qkv = (y @ layer.attention.wqkv_dkgh[...].reshape(config.hidden_size, -1)).reshape(b, t, k, g + 2, h)
    q = plain_rotary(qkv[:, :, :, :g].transpose(0, 2, 3, 1, 4).reshape(b, k * g, t, h), cos, sin)
    new_keys = plain_rotary(qkv[:, :, :, g].transpose(0, 2, 1, 3), cos, sin)
    write = jax.vmap(lambda c, n, p: jax.lax.dynamic_update_slice_in_dim(c, n, p, axis=1))
    keys = write(keys, new_keys, start)
    values = write(values, qkv[:, :, :, g + 1].transpose(0, 2, 1, 3), start)
    length = keys.shape[2] if t == 1 else t
    scores = jnp.einsum("bkgth,bksh->bkgts", q.reshape(b, k, g, t, h), keys[:, :, :length]) * h**-0.5
    visible = jnp.arange(length)[None, None] <= positions[..., None]
    weights = jax.nn.softmax(jnp.where(visible[:, None, None], scores, -jnp.inf), -1)
    out = jnp.einsum("bkgts,bksh->bkgth", weights, values[:, :, :length])
    x = x + out.transpose(0, 3, 1, 2, 4).reshape(b, t, -1) @ layer.attention.wo_qd[...]
    y = plain_rms_norm(x, layer.mlp_norm_d[...], config.rms_norm_eps)
    y = jax.nn.silu(y @ layer.mlp.w1_df[...]) * (y @ layer.mlp.w3_df[...])
    return x + y @ layer.mlp.w2_fd[...], keys, values


def plain_forward(model, tokens, positions, cache, config, frequencies):
    """Logits [B, T, V] and the cache."""
    x = model.embedding_vd[...][tokens]
    keys, values = list(cache.keys), list(cache.values)
    for i, layer in enumerate(model.layers):
        x, keys[i], values[i] = plain_layer(
            layer, x, positions, keys[i], values[i], positions[:, 0], config, frequencies
        )
    x = plain_rms_norm(x, model.norm_d[...], config.rms_norm_eps)
    return x @ model.lm_head_dv[...], KVCache(tuple(keys), tuple(values))
