import jax.numpy as jnp
import numpy as np
from attention.tiny import BATCH, DECODER, logits, started

from ft_jax import attention, models
from ft_jax.core import compose
from ft_jax.core.grafts import map_grafts


def test_cached_generation_equals_running_the_whole_text_again():
    """With a gate that differs from token to token, a window, a prefix and an adaption prompt at once."""
    method = compose(
        attention.sliding_window(3),
        attention.token_gates(),
        attention.prefix_tuning(2),
        attention.llama_adapter(2),
    )
    _, seen = started(method)

    def moved(path, graft):
        return type(graft)(graft.scorer + jnp.sin(jnp.arange(16.0))[:, None], graft.offset, graft.strength)

    def opened(path, graft):
        return type(graft)(graft.prompt, graft.gate + 0.5)

    seen = map_grafts(opened, map_grafts(moved, seen, "attention.token_gates"), "attention.llama_adapter")
    prompts = BATCH["input_ids"][:2, :4]
    found = models.generate(DECODER, seen, prompts, max_new_tokens=5).tokens
    text = prompts
    for _ in range(5):
        padded = jnp.pad(text, ((0, 0), (0, 9 - text.shape[1])))
        mask = jnp.broadcast_to(jnp.arange(9) < text.shape[1], padded.shape).astype(jnp.int32)
        last = logits(DECODER, seen, {"input_ids": padded, "attention_mask": mask})[:, text.shape[1] - 1]
        text = jnp.concatenate([text, jnp.argmax(last, axis=-1)[:, None].astype(text.dtype)], axis=1)
    np.testing.assert_array_equal(found, text[:, 4:])
    plain = models.generate(DECODER, DECODER.params, prompts, max_new_tokens=5).tokens
    assert np.any(np.asarray(plain) != np.asarray(found))
