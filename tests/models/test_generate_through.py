"""Generation by whole forward passes equals the one over a cache, and goes through what a cache can't."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ft_jax import models
from ft_jax.models import generate, generate_through

MODEL = models.tiny_decoder(jax.random.key(0))
PROMPTS = jax.random.randint(jax.random.key(1), (3, 6), 1, 32)
MASK = jnp.array([[1] * 6, [0] * 3 + [1] * 3, [1] * 5 + [0]])


def run(batch):
    return MODEL.apply(MODEL.params, batch)


@pytest.mark.parametrize("way", [{}, {"temperature": 0.7, "top_p": 0.9, "samples": 2}, {"stop_tokens": (3, 5, 7, 9)}])
def test_it_equals_generation_over_a_cache(way):
    keys = None if "temperature" not in way else jax.random.split(jax.random.key(4), 6)
    way = {"max_new_tokens": 5, "stop_tokens": (), "pad_token": 0, **way}
    cached = generate(MODEL, MODEL.params, PROMPTS, MASK, key=keys, **way)
    whole = jax.jit(lambda: generate_through(run, PROMPTS, MASK, key=keys, **way))()
    np.testing.assert_array_equal(cached.tokens, whole.tokens)
    np.testing.assert_array_equal(cached.lengths, whole.lengths)
    np.testing.assert_allclose(cached.log_probabilities, whole.log_probabilities, atol=1e-5)


def test_what_a_pass_reads_of_a_prompt_comes_with_each_continuation():
    wanted = jnp.array([4, 9, 2])

    def steered(batch):
        outputs = run(batch)
        push = 50.0 * jax.nn.one_hot(batch["wanted"], outputs.logits.shape[-1])[:, None]
        return dataclasses.replace(
            outputs, hidden=outputs.logits + push, unembedding=jnp.eye(push.shape[-1]), bias=None
        )

    found = generate_through(
        steered, PROMPTS, MASK, max_new_tokens=3, key=jax.random.key(2), temperature=1.0, samples=2,
        fields={"wanted": wanted},
    )  # fmt: skip
    np.testing.assert_array_equal(found.tokens, jnp.repeat(wanted, 2)[:, None] * jnp.ones((1, 3), jnp.int32))


def test_numbers_out_of_range_are_refused():
    for wrong in ({"max_new_tokens": 0}, {"max_new_tokens": 2, "samples": 0}):
        with pytest.raises(ValueError, match="both must be at least 1"):
            generate_through(run, PROMPTS, **wrong)
    with pytest.raises(ValueError, match="key"):
        generate_through(run, PROMPTS, max_new_tokens=2, temperature=1.0)
