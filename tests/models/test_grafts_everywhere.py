"""What methods add inside modules works in every network: virtual tokens, changed layers, extra keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models.tiny_checkpoints import recorded

from ft_jax.core.grafts import Graft, Holder, graft
from ft_jax.core.weights.operator import operator
from ft_jax.models.networks.parts.layers import with_virtual
from ft_jax.models.networks.parts.masks import Mask

COUNT = 3


@operator()
class Virtual(Graft):
    """Learned tokens before the real ones."""

    tokens: jax.Array

    def prepend(self, embedded):
        tokens = self.tokens.astype(embedded.dtype)
        return jnp.broadcast_to(tokens, (embedded.shape[0], *tokens.shape))


@operator()
class Scaled(Graft):
    """A layer's output times factors from one to the last, which no norm takes back."""

    factor: jax.Array

    def output(self, x):
        return x * jnp.linspace(1.0, self.factor, x.shape[-1]).astype(x.dtype)


@operator()
class Sources(Graft):
    """Extra keys and values."""

    strength: jax.Array

    def sources(self, attention, keys, values):
        shape = (keys.shape[0], COUNT, *keys.shape[2:])
        return jnp.full(shape, self.strength), jnp.full(shape, self.strength)


PLACES = [
    ("tiny_roberta", "embeddings", "layers/1"),
    ("tiny_modernbert", "embeddings", "layers/1"),
    ("tiny_t5", "embeddings", "decoder/stack/layers/1"),
    ("tiny_vit", "embeddings", "layers/1"),
    ("tiny_clip", "text/embeddings", "vision/layers/1"),
    ("tiny_whisper", "embeddings", "encoder/layers/1"),
    ("tiny_llava", "language/embeddings", "vision/layers/0"),
]


@pytest.mark.parametrize(("name", "embeddings", "layer"), PLACES, ids=[place[0] for place in PLACES])
def test_additions_work_in_every_network_and_leave_its_shapes(name, embeddings, layer):
    case = recorded(name)
    batch, model = case.batch(), case.model
    width = 24 if embeddings.startswith("text/") else 32

    def grafted(tokens, factor, strength):
        params = graft(model.params, embeddings, "virtual", Virtual(tokens))
        params = graft(params, layer, "scaled", Scaled(jnp.float32(factor)))
        return graft(params, f"{layer}/attention", "sources", Sources(jnp.float32(strength)))

    def run(params):
        outputs = model.apply(params, batch)
        return outputs.logits, outputs.hidden

    compiled, tokens = jax.jit(run), 0.5 * jax.random.normal(jax.random.key(0), (COUNT, width))
    logits, hidden = compiled(grafted(tokens, 1.0, 0.5))
    plain = jax.eval_shape(run, model.params)
    assert (logits.shape, hidden.shape) == (plain[0].shape, plain[1].shape)
    for change in ((2 * tokens, 1.0, 0.5), (tokens, 1.5, 0.5), (tokens, 1.0, -0.5)):
        assert float(jnp.abs(compiled(grafted(*change))[0] - logits).max()) > 1e-5


def test_virtual_tokens_are_kept_while_generating():
    from ft_jax import models

    for name, path in (("tiny_whisper", "embeddings"), ("tiny_t5", "embeddings")):
        case = recorded(name)
        virtual = Virtual(jax.random.normal(jax.random.key(0), (COUNT, 32)))
        params = graft(case.model.params, path, "virtual", virtual)
        batch = {field: x for field, x in case.batch().items() if field != "labels"}
        got = models.generate_from(case.model, params, batch, max_new_tokens=6, stop_tokens=()).tokens
        start = jnp.full((got.shape[0], 1), case.model.config.start, jnp.int32)
        begun = batch | {"decoder_input_ids": jnp.concatenate([start, got[:, :-1]], axis=1)}
        logits = jax.jit(case.model.apply)(params, begun).logits
        np.testing.assert_array_equal(jnp.argmax(logits, axis=-1), got)


def test_two_prompts_on_a_causal_model_see_nothing_ahead():
    embeddings = nnx.Dict()
    embeddings.grafts = Holder((Virtual(jnp.ones((2, 4))), Virtual(jnp.ones((1, 4)))))
    positions = jnp.broadcast_to(jnp.arange(3), (1, 3))
    count, embedded, _, mask = with_virtual(embeddings, jnp.zeros((1, 3, 4)), positions, Mask(causal=True))
    assert count == 3 and embedded.shape == (1, 6, 4)
    np.testing.assert_array_equal(mask.explicit(6, 6).allowed[0, 0], np.tril(np.ones((6, 6), bool)))
