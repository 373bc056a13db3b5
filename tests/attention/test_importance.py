import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention.tiny import BATCH, DECODER, program_of, started

from ft_jax import attention
from ft_jax.attention.gates import Gate
from ft_jax.attention.importance import masked
from ft_jax.core import cross_entropy
from ft_jax.core.grafts import graft

METHOD = attention.head_pruning(DECODER.apply, share=0.5)
BATCHES = jax.tree.map(lambda x: x[None], BATCH)
HEADS = {f"layers/{layer}/attention": jnp.ones(2) for layer in (0, 1)}


def loss(masks, batch):
    outputs = DECODER.apply(masked(DECODER.params, masks, "x"), batch, None)
    return cross_entropy(outputs, batch["labels"], batch["weights"])


@pytest.fixture(scope="module")
def pruned():
    program = program_of(METHOD)
    state, _ = started(METHOD)
    return program, state, jax.jit(program.after_task)(state, BATCHES)


def test_importance_is_the_mean_size_of_each_examples_derivative():
    found = jax.jit(lambda: attention.head_importance(loss, HEADS, BATCHES))()
    run, step = jax.jit(loss), 1e-2
    for path, index in (("layers/0/attention", 1), ("layers/1/attention", 0)):
        slopes = []
        for row in range(4):
            one = jax.tree.map(lambda x, row=row: x[row : row + 1], BATCH)
            values = [run({**HEADS, path: HEADS[path].at[index].add(move)}, one) for move in (step, -step)]
            slopes.append(abs(values[0] - values[1]) / (2 * step))
        np.testing.assert_allclose(found[path][index], np.mean(slopes), rtol=2e-2)


def test_the_end_of_a_task_leaves_out_the_heads_that_matter_least(pruned):
    program, _, after = pruned
    importance = jax.jit(lambda: attention.head_importance(loss, HEADS, BATCHES))()
    masks = after.memory[METHOD.name]
    for path, own in importance.items():
        assert masks[path].tolist() == [float(value == own.max()) for value in own]
    ablated = DECODER.params
    for path, mask in masks.items():
        ablated = graft(ablated, path, "planted", Gate(mask))
    expected = cross_entropy(DECODER.apply(ablated, BATCH, None), BATCH["labels"], BATCH["weights"])
    np.testing.assert_allclose(jax.jit(program.evaluate)(after, BATCH)[0]["task"], expected, rtol=1e-5)


def test_heads_left_out_stay_out_and_a_layer_keeps_one():
    masks = {"a": jnp.array([0.0, 1.0, 1.0]), "b": jnp.array([1.0, 1.0, 0.0])}
    importance = {"a": jnp.array([9.0, 1.0, 2.0]), "b": jnp.array([1.0, 3.0, 9.0])}
    found = attention.least_important(importance, masks, 1.0)
    assert [found[path].tolist() for path in ("a", "b")] == [[0, 0, 1], [0, 1, 0]]
    same = attention.least_important(importance, masks, 2 / 6)
    assert [same[path].tolist() for path in ("a", "b")] == [masks[path].tolist() for path in ("a", "b")]


def test_no_head_is_left_out_before_a_task_ends(pruned):
    _, state, _ = pruned
    assert all(np.all(mask == 1) for mask in state.memory[METHOD.name].values())
    assert not jax.tree.leaves(state.params.get(METHOD.name, {}))


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_outside_its_bounds_is_refused(share):
    with pytest.raises(ValueError, match="give the share of heads to leave out, from 0 to below 1"):
        attention.head_pruning(heads=2, share=share)
