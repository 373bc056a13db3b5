import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from attention.tiny import BATCH, DECODER, ENCODER, logits, program_of, started, trained

from ft_jax import attention
from ft_jax.attention.gates import EVERYTHING, Gate
from ft_jax.core import compose, jit_step, make_step, parameters, supervised
from ft_jax.core.grafts import graft, ungrafted
from ft_jax.models import DecoderConfig, decoder

GATES = {
    "head": attention.head_gates(DECODER.apply, penalty=0.1),
    "sampled": attention.head_gates(DECODER.apply, penalty=0.1, sampled=True),
    "layer": attention.layer_gates(),
    "token": attention.token_gates(),
}


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("model", [DECODER, ENCODER], ids=["decoder", "encoder"])
def test_gates_start_at_the_base_function_and_alone_learn(model, kind):
    state, gated = started(GATES[kind], model)
    np.testing.assert_allclose(logits(model, gated), logits(model), atol=1e-6)
    assert len(jax.tree.leaves(state.params)) == (4 if kind == "token" else 2)


@pytest.mark.parametrize("kind", ["head", "token"])
def test_at_strength_zero_training_is_that_without_gates(kind):
    method = {"head": attention.head_gates(heads=2, also=EVERYTHING), "token": attention.token_gates(also=EVERYTHING)}
    program, plain = program_of(method[kind]), program_of(compose())
    state, other = (jax.jit(one.init)(DECODER.params, jax.random.key(2)) for one in (program, plain))
    state, _ = jit_step(program.step)(state.with_hyper({f"{method[kind].name}.strength": 0.0}), BATCH)
    other, _ = jit_step(plain.step)(other, BATCH)
    ours = ungrafted(state.params["model"])[0]
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(other.params["model"]), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def planted(key):
    """A model of four heads a layer, and the same with two heads of each layer taken out."""
    config = DecoderConfig(
        vocabulary=16, width=16, layers=2, heads=4, key_value_heads=4, head_width=4, mlp_width=16, tied=False
    )
    model = decoder(config, key)
    masks = [jnp.array([1.0, 0.0, 0.0, 1.0]), jnp.array([0.0, 1.0, 1.0, 0.0])]
    ablated = model.params
    for layer, mask in enumerate(masks):
        ablated = graft(ablated, f"layers/{layer}/attention", "planted", Gate(mask))
    return model, ablated, masks


@pytest.mark.parametrize("sampled", [False, True])
def test_gates_find_the_heads_that_are_planted(sampled):
    model, ablated, masks = planted(jax.random.key(4))
    ids = jax.random.randint(jax.random.key(5), (32, 8), 0, 16)
    wanted = logits(model, ablated, {"input_ids": ids})

    def loss(params, batch, context):
        outputs = model.apply(context.join(params)["model"], batch, None)
        return {"task": jnp.mean(jnp.square(outputs.logits - batch["wanted"]))}, outputs

    method = attention.head_gates(model.apply, penalty=0.02 if sampled else 0.002, sampled=sampled)
    program = make_step(loss, optax.adam(0.1 if sampled else 0.03), method)
    state, step = program.init(model.params, jax.random.key(6)), jit_step(program.step)
    for _ in range(150):
        state, _ = step(state, {"input_ids": ids, "wanted": wanted})
    gates = attention.gates_of(parameters(state, method)["model"], method.name)
    np.testing.assert_allclose(jnp.stack(gates), jnp.stack(masks), atol=0.25)


def test_sampled_gates_are_noisy_in_training_and_fixed_in_evaluation():
    method = attention.head_gates(DECODER.apply, sampled=True)
    program = make_step(supervised(DECODER.apply), optax.sgd(0.0), method)
    state, step = program.init(DECODER.params, jax.random.key(2)), jit_step(program.step)
    state, first = step(state, BATCH)
    state, second = step(state, BATCH)
    assert first["task"] != second["task"]
    evaluate = jax.jit(program.evaluate)
    one, other = (evaluate(state, BATCH)[0]["task"] for _ in range(2))
    assert one == other


def test_a_token_gate_acts_on_its_own_token():
    _, gated = started(attention.token_gates())
    own = gated["layers"]["0"]["attention"]["grafts"]["attention.token_gates"]
    closed = type(own)(own.scorer, own.offset - 50.0, own.strength)
    x = jnp.ones((1, 3, own.scorer.shape[0]))
    np.testing.assert_allclose(closed.gates(x), 0.0, atol=1e-6)
    np.testing.assert_allclose(own.gates(x), 1.0)


def test_a_penalty_closes_gates():
    state, history = trained(attention.layer_gates(penalty=5.0), steps=5)
    assert history[-1]["attention.layer_gates"] < history[0]["attention.layer_gates"] == 5.0
    assert all(gate < 1 for gate in jax.tree.leaves(state.params))


def test_heads_that_are_not_known_are_asked_for():
    with pytest.raises(ValueError, match="can't see how many heads a layer has; give heads="):
        attention.head_gates(lambda params, batch, key: None)
