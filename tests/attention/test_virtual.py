import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from attention.tiny import BATCH, DECODER, ENCODER, logits, started, trained

from ft_jax import attention, models
from ft_jax.core import compose, make_step, parameters
from ft_jax.core.params import paths

REFUSED = [
    (lambda: attention.prefix_tuning(0), "length 0; give it at least 1"),
    (lambda: attention.prefix_tuning(projection=0), "projection 0; give it at least 1"),
    (lambda: attention.prompt_tuning(0), "length 0; give it at least 1"),
    (lambda: attention.prompt_tuning(2, start="zeros"), "start 'zeros'; use 'rows', 'random' or token ids"),
    (lambda: attention.prompt_tuning(2, start=()), r"start \(\); use 'rows'"),
    (lambda: attention.p_tuning(encoder="gru"), "encoder 'gru'; use 'mlp' or 'lstm'"),
    (lambda: attention.llama_adapter(0), "length 0; give it at least 1 row"),
    (lambda: started(attention.prompt_tuning(2, start=(40,))), "token 40, but the table has 32 rows"),
    (lambda: started(attention.llama_adapter(2, layers=3)), "layers 3, and the model has 2 with attention"),
    (lambda: started(attention.prefix_tuning(2, also=("*/nothing/*",))), "no parameter matches"),
    (lambda: started(attention.attention_only(("*/attn/*",))), r"no parameter matches \*/attn/\*"),
]


@pytest.mark.parametrize("model", [DECODER, ENCODER], ids=["decoder", "encoder"])
def test_the_llama_adapter_starts_at_the_base_function(model):
    _, adapted = started(attention.llama_adapter(4), model)
    np.testing.assert_allclose(logits(model, adapted), logits(model), atol=1e-6)


def test_only_the_chosen_layers_have_an_adaption_prompt():
    state, _ = started(attention.llama_adapter(4, layers=1))
    place = "model/layers/1/attention/grafts/attention.llama_adapter"
    assert sorted(paths(state.params)) == [f"{place}/gate", f"{place}/prompt"]


def test_a_prompt_of_tokens_is_those_tokens_before_the_text():
    _, prompted = started(attention.prompt_tuning(3, start=(5, 9, 2)))
    shown = logits(DECODER, prompted, {"input_ids": BATCH["input_ids"]})
    ids = jnp.concatenate([jnp.broadcast_to(jnp.array([5, 9, 2]), (4, 3)), BATCH["input_ids"]], axis=1)
    expected = logits(DECODER, None, {"input_ids": ids})
    np.testing.assert_allclose(shown, expected[:, 3:], atol=1e-5)


def test_a_prefix_of_a_texts_own_keys_and_values_is_that_text():
    """The first token's keys are not turned, so as a prefix they do what they did as a token."""
    ids = BATCH["input_ids"]
    model = DECODER.configure(collect=("hidden",))
    hidden = model.apply(model.params, {"input_ids": ids[:1]}).states
    streams = [DECODER.params["embeddings"]["tokens"][ids[:1]], hidden["layers/0"]]
    _, prefixed = started(attention.prefix_tuning(1))
    for layer, stream in zip(("0", "1"), streams, strict=True):
        module = prefixed["layers"][layer]
        wide = stream[0, :1]
        normal = wide / jnp.sqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + 1e-5) * module["attention_norm"]["scale"]
        own = module["attention"]["grafts"]["attention.prefix_tuning"]
        rows = (normal @ module["attention"][part]["kernel"] for part in ("key", "value"))
        module["attention"]["grafts"]["attention.prefix_tuning"] = type(own)(*rows)
    found = logits(DECODER, prefixed, {"input_ids": ids[:1, 1:]})
    expected = logits(DECODER, None, {"input_ids": ids[:1]})[:, 1:]
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    "method",
    [
        attention.prefix_tuning(2),
        attention.prefix_tuning(2, projection=4),
        attention.prompt_tuning(2),
        attention.p_tuning(2, hidden=4, encoder="lstm"),
        attention.llama_adapter(2),
    ],
    ids=lambda method: method.name,
)
def test_training_lowers_the_loss_and_moves_nothing_else(method):
    state, history = trained(method, steps=8, rate=1.0)
    assert history[-1]["loss"] < history[0]["loss"]
    assert all("grafts" in path or path.startswith("attention.") for path in paths(state.params))


def test_several_kinds_stand_side_by_side():
    method = compose(
        attention.prefix_tuning(2), attention.prompt_tuning(3), attention.llama_adapter(2), attention.ia3()
    )
    _, history = trained(method, ENCODER, steps=6, rate=0.5)
    assert history[-1]["loss"] < history[0]["loss"]


def test_attention_only_trains_attention_alone():
    state, _ = started(attention.attention_only(), ENCODER)
    assert paths(state.params) and all("/attention/" in path for path in paths(state.params))


@pytest.mark.parametrize(("refused", "said"), REFUSED, ids=[said[:20] for _, said in REFUSED])
def test_bad_input_is_refused_in_one_sentence(refused, said):
    with pytest.raises(ValueError, match=said):
        refused()


WINDOWED = models.decoder(
    dataclasses.replace(models.tiny_decoder(None, layers=1).config, window=3, windowed=(True,)), jax.random.key(0)
)
IDS = jnp.arange(3, 11)[None]


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize("kind", [attention.prefix_tuning, attention.prompt_tuning])
def test_virtual_tokens_slide_out_of_a_window_unless_they_are_to_stay(kind, always, tmp_path):
    method = kind(2, always=always)
    program = make_step(lambda *_: None, optax.identity(), method)
    state = program.init(WINDOWED.params, jax.random.key(1))
    here, there = (
        parameters(state.replace(params=jax.tree.map(lambda x, more=more: x + more, state.params)), method)["model"]
        for more in (0.0, 1.0)
    )
    run = jax.jit(WINDOWED.apply)
    gaps = np.abs(run(here, {"input_ids": IDS}).hidden - run(there, {"input_ids": IDS}).hidden).max(-1)[0]
    # The first tokens see both or one of them; from the third on none of one layer does.
    assert (gaps[:2] > 1e-3).all()
    assert (gaps[2:] > 1e-3).all() if always else (gaps[2:] == 0).all()
    new = models.generate(WINDOWED, here, IDS[:, :3], max_new_tokens=5, stop_tokens=()).tokens
    ids = IDS[:, :3]
    for _ in range(5):
        ids = jnp.concatenate([ids, run(here, {"input_ids": ids}).logits[:, -1:].argmax(-1)], axis=1)
    np.testing.assert_array_equal(new, ids[:, 3:])
    if always:
        with pytest.raises(ValueError, match="stay in sight of a sliding window"):
            models.save_adapter(WINDOWED, here, tmp_path / "saved")
