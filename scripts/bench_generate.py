"""Time per token of the demo's generator beside a plain JAX float32 loop of the same model, in one run.

python scripts/bench_generate.py --weights=SmolLM2-135M --batch_size=1
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from ttsim.ui import console

_WEIGHTS = flags.DEFINE_string("weights", "SmolLM2-135M", "Checkpoint.")
_BATCH = flags.DEFINE_integer("batch_size", 1, "Users.")
_PRECISION = flags.DEFINE_string("precision", "performance", "Preset of the generator.")
_TOKENS = flags.DEFINE_integer("tokens", 24, "Decode iterations of each round.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds; the fastest counts, the two loops take turns.")
_LENGTH = flags.DEFINE_integer("max_seq_len", 1024, "Positions of the KV cache.")


def plain_parameters(model, config):
    """The model's weights as a plain loop has them: q, k and v of a layer in one matrix, q first."""
    kv, group, head = config.num_kv_heads, config.queries_per_kv, config.head_dim
    layers = []
    for layer in model.layers:
        w = np.asarray(layer.attention.wqkv_dkgh[...])
        parts = w[:, :, :group], w[:, :, group : group + 1], w[:, :, group + 1 :]
        qkv = np.concatenate([part.reshape(len(w), -1) for part in parts], axis=1)
        assert qkv.shape[1] == (group + 2) * kv * head
        mlp = layer.mlp
        names = (layer.attention.wo_qd, mlp.w1_df, mlp.w3_df, mlp.w2_fd, layer.attention_norm_d, layer.mlp_norm_d)
        layers.append((jnp.asarray(qkv), *(jnp.asarray(param[...]) for param in names)))
    tail = (jnp.asarray(param[...]) for param in (model.embedding_vd, model.norm_d, model.lm_head_dv))
    return layers, *tail


def plain_step(parameters, tokens, positions, cache, *, config):
    """One token for every user in float32, written the usual way."""
    layers, embedding, norm, head_matrix = parameters
    kv, group, head = config.num_kv_heads, config.queries_per_kv, config.head_dim
    batch = tokens.shape[0]

    def rms(x, weight):
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + config.rms_norm_eps) * weight[None]

    frequencies = config.rope.theta ** (-jnp.arange(0, head, 2) / head)
    angles = (positions[:, None] * frequencies[None])[:, None]
    cos, sin = jnp.cos(angles), jnp.sin(angles)

    def rotate(x):
        even, odd = x[..., 0::2], x[..., 1::2]
        return jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1).reshape(x.shape)

    x = embedding[tokens]
    users, new = jnp.arange(batch), []
    for (qkv, wo, w1, w3, w2, norm1, norm2), (keys, values) in zip(layers, cache, strict=True):
        q, k, v = jnp.split(rms(x, norm1) @ qkv, [kv * group * head, kv * (group + 1) * head], axis=-1)
        q, k = rotate(q.reshape(batch, -1, head)), rotate(k.reshape(batch, -1, head))
        keys = keys.at[users, :, positions].set(k)
        values = values.at[users, :, positions].set(v.reshape(batch, -1, head))
        scores = jnp.einsum("bkgd,bksd->bkgs", q.reshape(batch, kv, group, head), keys) * head**-0.5
        visible = jnp.arange(keys.shape[2])[None] <= positions[:, None]
        weights = jax.nn.softmax(jnp.where(visible[:, None, None], scores, -jnp.inf), axis=-1)
        x = x + jnp.einsum("bkgs,bksd->bkgd", weights, values).reshape(batch, -1) @ wo
        h = rms(x, norm2)
        x = x + (jax.nn.silu(h @ w1) * (h @ w3)) @ w2
        new.append((keys, values))
    return jnp.argmax(rms(x, norm) @ head_matrix, axis=-1).astype(jnp.int32), new


def main() -> None:
    from ttsim.generation.generate import Generator, keep_compiled
    from ttsim.meshes.lookup import get_system
    from ttsim.models.checkpoints.loading import load_model, open_checkpoint
    from ttsim.models.layout import Layout
    from ttsim.precision.presets import preset

    keep_compiled()
    checkpoint, batch, length = open_checkpoint(_WEIGHTS.value), _BATCH.value, _LENGTH.value
    config = checkpoint.config
    layout = Layout(config, get_system("N150"), max_seq_len=length)
    precision = preset(_PRECISION.value, config.known_name)
    model = load_model(checkpoint, layout, precision, progress=False)
    generator = Generator(model, layout, precision, batch_size=batch)
    prompts = np.random.default_rng(0).integers(0, config.vocab_size, (batch, 16)).tolist()
    generator(prompts, 2)

    parameters = plain_parameters(model, config)
    step = jax.jit(functools.partial(plain_step, config=config), donate_argnums=3)
    shape = (batch, config.num_kv_heads, length, config.head_dim)
    cache = [(jnp.zeros(shape), jnp.zeros(shape)) for _ in range(config.num_layers)]
    tokens, cache = step(parameters, jnp.zeros(batch, jnp.int32), jnp.full(batch, 15), cache)

    best = {"generator": [np.inf, np.inf], "plain": [np.inf, np.inf]}
    for _ in range(_ROUNDS.value):
        result = generator(prompts, _TOKENS.value)
        _note(best["generator"], result.step_times)
        times = []
        for i in range(_TOKENS.value):
            start = time.perf_counter()
            tokens, cache = step(parameters, tokens, jnp.full(batch, 16 + i), cache)
            tokens.block_until_ready()
            times.append(time.perf_counter() - start)
        _note(best["plain"], times)
    ratios = [best["generator"][i] / best["plain"][i] for i in (0, 1)]
    console.write(
        f"{config.name}, batch {batch}, {precision.default.ff1_3} ff1_3, cache of {length} positions; ms a token\n"
        f"generator  fastest {1e3 * best['generator'][0]:.1f}  median {1e3 * best['generator'][1]:.1f}\n"
        f"plain      fastest {1e3 * best['plain'][0]:.1f}  median {1e3 * best['plain'][1]:.1f}\n"
        f"ratio      fastest {ratios[0]:.2f}  median {ratios[1]:.2f}\n",
        None,
    )


def _note(best: list[float], times) -> None:
    best[0], best[1] = min(best[0], min(times)), min(best[1], float(np.median(times)))


if __name__ == "__main__":
    console.run(main)
