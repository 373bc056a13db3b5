"""Layer maps by number and name, and TinyBERT's scores against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax import compose, transfer
from ft_jax.core import make_step
from ft_jax.core.losses import forward
from ft_jax.core.outputs import Outputs
from ft_jax.distillation import attention_scores, hints, relations
from ft_jax.distillation.layers import paired, states_of
from ft_jax.models import tiny_decoder, tiny_encoder
from ft_jax.training.written_methods import use_of

STUDENT = tiny_encoder(jax.random.key(0), vocabulary=16, layers=2)
TEACHER = tiny_encoder(jax.random.key(1), vocabulary=16, layers=4)
MAP = {0: 1, "layers/1": "layers.3"}


def batch():
    ids = jax.random.randint(jax.random.key(2), (3, 5), 0, 16)
    return {"input_ids": ids, "attention_mask": jnp.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])}


def first_metrics(method, student=STUDENT):
    program = make_step(forward(student.apply), optax.sgd(0.1), method)
    return jax.jit(program.step)(program.init(student.params, jax.random.key(0)), batch())[1]


def refused(method, student=STUDENT):
    program = make_step(forward(student.apply), optax.sgd(0.1), method)
    jax.eval_shape(program.step, jax.eval_shape(program.init, student.params, jax.random.key(0)), batch())


def scores_by_hand(model, layer):
    """Every head's ``q kᵀ / √width`` of a layer from its parameters and what enters it."""
    states = model.apply.collecting(("hidden",))(model.params, batch()).states
    entering = np.asarray(states["embeddings" if layer == 0 else f"layers/{layer - 1}"], np.float64)
    held = model.params["layers"][str(layer)]["attention"]
    queries, keys = (entering @ np.float64(held[part]["kernel"]) + held[part]["bias"] for part in ("query", "key"))
    heads, width = model.config.heads, model.config.width // model.config.heads
    found = np.zeros((3, heads, 5, 5))
    for head in range(heads):
        cut = slice(head * width, (head + 1) * width)
        found[:, head] = queries[..., cut] @ keys[..., cut].transpose(0, 2, 1) / np.sqrt(width)
    return found


def test_scores_are_tinyberts_by_layer_map():
    found = first_metrics(attention_scores(TEACHER.apply, TEACHER.params, 2.0, layers=MAP))
    gaps = []
    for own, wanted in ((0, 1), (1, 3)):
        apart = (scores_by_hand(STUDENT, own) - scores_by_hand(TEACHER, wanted)) ** 2
        gaps.append(np.mean([apart[row, :, :real, :real].mean() for row, real in enumerate((5, 3, 2))]))
    np.testing.assert_allclose(found["distillation.attention_scores"], 2.0 * np.mean(gaps), rtol=1e-5)


def test_a_causal_model_compares_the_scores_it_sees():
    model, other = (tiny_decoder(jax.random.key(seed), vocabulary=16, layers=1) for seed in (0, 1))
    found = first_metrics(attention_scores(other.apply, other.params), model)["distillation.attention_scores"]
    apart = []
    for one in (model, other):
        states = one.apply.collecting(("scores", "attention"))(one.params, batch()).states
        scores, maps = np.float64(states["scores/0"]), np.float64(states["attention/0"])
        # Scores are logarithms of the maps up to a number a query, and hidden where the maps are 0.
        seen = np.where(maps > 0, scores, -np.inf)
        exponents = np.exp(seen - seen.max(-1, keepdims=True))
        np.testing.assert_allclose(exponents / exponents.sum(-1, keepdims=True), maps, atol=1e-5)
        apart.append(np.where(maps > 0, scores, 0.0))
    apart = (apart[0] - apart[1]) ** 2
    sums = [
        np.mean([apart[row, :, query, key] for query in range(real) for key in range(query + 1)])
        for row, real in enumerate((5, 3, 2))
    ]
    np.testing.assert_allclose(found, np.mean(sums), rtol=1e-5)


def test_tinyberts_losses_go_together_and_fall():
    teacher = TEACHER.apply, TEACHER.params
    layers = {"embeddings": "embeddings", **MAP}
    narrow = tiny_encoder(jax.random.key(0), vocabulary=16, layers=2, width=16)
    wide = (narrow.config.width, TEACHER.config.width)
    method = compose(
        attention_scores(*teacher, layers=MAP), hints(*teacher, layers=layers, widths=wide, weight=2 / wide[1])
    )
    program = make_step(forward(narrow.apply), optax.adam(0.01), method)
    state, step, history = program.init(narrow.params, jax.random.key(0)), jax.jit(program.step), []
    for _ in range(30):
        state, metrics = step(state, batch())
        history.append([float(metrics[name]) for name in method.names])
    assert all(last < 0.7 * first for first, last in zip(history[0], history[-1], strict=True))
    assert len(state.params["distillation.hints"]["projections"]) == 3


def test_the_embeddings_are_what_enters_the_first_layer():
    for model in (STUDENT, tiny_decoder(jax.random.key(0), vocabulary=16, layers=1)):
        made = make_step(forward(model.apply), optax.sgd(0.1), transfer.lora(rank=2))
        params = made.parameters(made.init(model.params, jax.random.key(0)))["model"]
        states = model.apply.collecting(("hidden",))(params, batch()).states
        assert states["embeddings"].shape == states["layers/0"].shape
        table = np.asarray(model.params["embeddings"]["tokens"])[batch()["input_ids"]]
        if model is not STUDENT:
            np.testing.assert_allclose(states["embeddings"], table, atol=1e-6)


@pytest.mark.parametrize("make", [hints, relations, attention_scores])
def test_a_name_and_a_number_are_the_same_layer(make):
    options = {"heads": 2} if make is relations else {}
    name = f"distillation.{make.__name__}"
    maps = ({0: 1, 1: 3}, {"layers/0": "layers/1", "1": "-1"}, {-2: "layers/-3", "layers.1": 3}, (0, 1))
    found = [
        first_metrics(make(TEACHER.apply, TEACHER.params, layers=one, **options, **more))[name]
        for one, more in zip(maps, ({}, {}, {}, {"teacher_layers": ("layers/1", -1)}), strict=True)
    ]
    assert all(value == found[0] for value in found) and found[0] > 0


def test_towers_have_layers_by_name():
    states = {f"{tower}/query/{i}": jnp.full((1,), i) for tower in ("encoder", "decoder") for i in range(2)}
    outputs = Outputs(jnp.zeros((1, 1)), states=states)
    assert [float(x[0]) for x in states_of(outputs, ("encoder/layers/0", "decoder/layers/-1"), "it", "query")] == [0, 1]
    with pytest.raises(ValueError, match="several towers, encoder/layers, decoder/layers, and 1 says of none"):
        states_of(outputs, (1,), "it", "query")


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ({0: 9}, "hints: the teacher has no layer 9; it has layers/0 to layers/3, embeddings, of which layers/3"),
        ({-3: 0}, "hints: the student has no layer -3; it has layers/0 to layers/1, embeddings, of which layers/1"),
        ({"bert.encoder.layer.1": 0}, "no layer 'bert.encoder.layer.1'; .* of which layers/1 is the nearest"),
        ({"embedding": 0}, "no layer 'embedding'; .* of which embeddings is the nearest"),
        ({}, "has a map of no layers; give at least one"),
    ],
)
def test_a_map_that_names_nothing_is_refused(layers, says):
    with pytest.raises(ValueError, match=says):
        refused(hints(TEACHER.apply, TEACHER.params, layers=layers))


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match=r"map of layers and teacher_layers \(1,\) beside it"):
        paired({0: 1}, (1,), "it")
    narrow = STUDENT.configure(heads=1)
    with pytest.raises(ValueError, match=r"head by head, .*\(1, 5, 5\).*take distillation.relations"):
        refused(attention_scores(TEACHER.apply, TEACHER.params), narrow)
    with pytest.raises(ValueError, match="the teacher gives no attention scores"):
        refused(attention_scores(lambda params, batch, key: Outputs(jnp.zeros((3, 5, 1))), {}))
    with pytest.raises(ValueError, match="has layers 'last'; give it several of"):
        hints(TEACHER.apply, TEACHER.params, layers="last")


def test_a_command_line_says_a_map():
    use = use_of("distillation.hints(params=Pretrained('pkg://a'), layers={0: 1, 'layers/1': -1})")
    assert use.options["layers"] == {0: 1, "layers/1": -1}
