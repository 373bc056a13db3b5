"""Uncertainty weighting's toy: two regressions whose noise it finds while it learns them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ft_jax import adaptive
from ft_jax.core import Outputs, make_step, optimizer
from ft_jax.training.report.charts import Series, line_chart
from ft_jax.training.reproduction import Found, Reproduction, within

EXAMPLES, WIDTH, BATCH, EPOCHS, QUICK = 100, 1024, 20, 2000, 500
FOUND = {"first": 8.648, "second": 0.9255}
"""The standard deviations that the authors' notebook prints, of noise drawn with 10 and 1."""


def drawn():
    """The notebook's examples: ``y₁ = 2x + 8 + 10ε`` and ``y₂ = 3x + 3 + ε``, by NumPy from seed 0 in its order."""
    np.random.seed(0)
    x = np.random.randn(EXAMPLES, 1)
    first = 2 * x + 8 + 10 * np.random.randn(EXAMPLES, 1)
    second = 3 * x + 3 + np.random.randn(EXAMPLES, 1)
    return {"x": jnp.float32(x), "first": jnp.float32(first), "second": jnp.float32(second)}


def network(key):
    """One hidden layer that both tasks share, drawn as Glorot and Bengio do, with an output each."""
    keys, glorot = jax.random.split(key, 3), jax.nn.initializers.glorot_uniform()
    sizes = {"hidden": (1, WIDTH), "first": (WIDTH, 1), "second": (WIDTH, 1)}
    return {
        name: {"kernel": glorot(one, size), "bias": jnp.zeros(size[1])}
        for (name, size), one in zip(sizes.items(), keys, strict=True)
    }


def task(params, batch, context):
    """The mean squared error of each."""
    layers = params["model"]
    hidden = jax.nn.relu(batch["x"] @ layers["hidden"]["kernel"] + layers["hidden"]["bias"])
    told = {name: hidden @ layers[name]["kernel"] + layers[name]["bias"] for name in FOUND}
    return {name: jnp.mean((told[name] - batch[name]) ** 2) for name in FOUND}, Outputs(hidden=hidden)


@functools.cache
def compiled(epochs):
    """``seeds [count] -> deviations [count, epochs, 2]`` after each epoch."""
    data, method = drawn(), adaptive.uncertainty(tuple(FOUND), regression=tuple(FOUND))
    program = make_step(task, optimizer(optax.adam, learning_rate=1e-3), method)

    def run(seed):
        begin, order = jax.random.split(jax.random.key(seed))

        def epoch(state, key):
            rows = jax.random.permutation(key, EXAMPLES).reshape(-1, BATCH)
            batches = jax.tree.map(lambda x: x[rows], data)
            state, _ = jax.lax.scan(lambda one, batch: (program.step(one, batch)[0], None), state, batches)
            found = state.params[method.name]
            return state, jnp.stack([jnp.exp(found[name] / 2) for name in FOUND])

        state = program.init(network(begin), begin)
        return jax.lax.scan(epoch, state, jax.random.split(order, epochs))[1]

    return jax.jit(jax.vmap(run))


def measure(seeds, quick):
    """The deviations found, over the seeds of the network and of the batches' order."""
    curves = np.asarray(compiled(QUICK if quick else EPOCHS)(jnp.array(seeds)))
    lines = [
        Series(name, [(at + 1, float(y)) for at, y in enumerate(curves[:, :, part].mean(0)) if at % 10 == 9])
        for part, name in enumerate(FOUND)
    ]
    findings = [
        within(f"standard deviation of the {name} task", FOUND[name], curves[:, -1, part].tolist(), 0.03 * FOUND[name])
        for part, name in enumerate(FOUND)
    ]
    return Found(findings, {"standard deviations found, by epoch": line_chart("deviation", lines)})


reproduction = Reproduction(
    title="Uncertainty weighting's toy problem",
    paper="Kendall, Gal and Cipolla 2018, arXiv:1705.07115",
    where="the authors' notebook multi-task-learning-example (Keras), its printed deviations",
    setting="same",
    measure=measure,
    seeds=(0, 1, 2),
    seconds=30,
)
