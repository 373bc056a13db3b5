"""MNIST-1D's own table: what a linear model, a perceptron and a convolutional network read out of 40 numbers."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ft_jax.core import Outputs, make_step, optimizer, supervised
from ft_jax.training.report.charts import Series, line_chart
from ft_jax.training.reproduction import Found, Reproduction, at_least, within

STEPS, QUICK, SHOWN, BATCH, CLASSES = 6000, 500, 250, 100, 10
PAPER = {"logistic": 32.0, "perceptron": 68.0, "convolutional": 94.0}
"""Test accuracy in percent, of the table in the package's README."""
SHUFFLED = 56.0
"""The convolutional network's where the 40 numbers of every example are in another order."""


def signals() -> dict[str, dict[str, np.ndarray]]:
    """``{split: {"signal" [examples, 40], "labels"}}``: 4,000 and 1,000 signals, as the package makes them."""
    from mnist1d.data import make_dataset

    made = make_dataset()
    return {
        split: {"signal": np.float32(made[f"x{end}"]), "labels": np.int32(made[f"y{end}"])}
        for split, end in (("train", ""), ("test", "_test"))
    }


def affine(key: jax.Array, *shape: int) -> dict[str, jax.Array]:
    """A kernel ``[..., outputs]`` and a bias, drawn uniformly up to one over the root of the inputs, as torch does."""
    kernel, bias = jax.random.split(key)
    most = 1 / math.sqrt(math.prod(shape[:-1]))
    return {
        "kernel": jax.random.uniform(kernel, shape, minval=-most, maxval=most),
        "bias": jax.random.uniform(bias, shape[-1:], minval=-most, maxval=most),
    }


def logistic(key):
    """410 parameters."""
    return {"head": affine(key, 40, CLASSES)}


def perceptron(key):
    """Two hidden layers of 100, the second beside its input."""
    first, second, head = jax.random.split(key, 3)
    return {"first": affine(first, 40, 100), "second": affine(second, 100, 100), "head": affine(head, 100, CLASSES)}


def convolutional(key):
    """Three convolutions of 25 channels, each at every second place."""
    one, two, three, head = jax.random.split(key, 4)
    layers = {"one": affine(one, 5, 1, 25), "two": affine(two, 3, 25, 25), "three": affine(three, 3, 25, 25)}
    return {**layers, "head": affine(head, 125, CLASSES)}


NETWORKS = {"logistic": logistic, "perceptron": perceptron, "convolutional": convolutional}


def apply(params, batch, key):
    """Any of the three, told apart by its layers."""
    x = batch["signal"]
    if "first" in params:
        x = jax.nn.relu(x @ params["first"]["kernel"] + params["first"]["bias"])
        x = x + jax.nn.relu(x @ params["second"]["kernel"] + params["second"]["bias"])
    if "one" in params:
        x = x[..., None]
        for name in ("one", "two", "three"):
            kernel, x = params[name]["kernel"], jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
            first = jnp.arange(0, x.shape[1] - kernel.shape[0] + 1, 2)
            windows = x[:, first[:, None] + jnp.arange(kernel.shape[0])]  # [batch, places, width, channels]
            x = jax.nn.relu(jnp.einsum("bpwi,wio->bpo", windows, kernel) + params[name]["bias"])
        x = jnp.swapaxes(x, 1, 2).reshape(x.shape[0], -1)
    return Outputs(hidden=x, unembedding=params["head"]["kernel"], bias=params["head"]["bias"])


@functools.cache
def compiled(network: str, steps: int):
    """``(data, seed) -> test accuracy in percent [steps / SHOWN]`` along the way, batches in the data's order."""
    program = make_step(supervised(apply), optimizer(optax.adam, learning_rate=1e-2))

    def run(data, seed):
        batches = jax.tree.map(lambda x: x.reshape(-1, BATCH, *x.shape[1:]), data["train"])
        count = batches["labels"].shape[0]

        def some(state, first):
            def one(state, at):
                return program.step(state, jax.tree.map(lambda x: x[at % count], batches))[0], None

            state, _ = jax.lax.scan(one, state, first + jnp.arange(SHOWN))
            said = jnp.argmax(program.evaluate(state, data["test"]).predictions, axis=-1)
            return state, 100 * jnp.mean(said == data["test"]["labels"])

        key = jax.random.key(seed)
        return jax.lax.scan(some, program.init(NETWORKS[network](key), key), jnp.arange(0, steps, SHOWN))[1]

    return jax.jit(run)


def measure(seeds, quick):
    """Test accuracy after the last step, of the three networks and of the convolutional one on shuffled signals."""
    steps, data = QUICK if quick else STEPS, signals()
    order = np.random.default_rng(42).permutation(data["train"]["signal"].shape[1])
    mixed = {split: {**part, "signal": part["signal"][:, order]} for split, part in data.items()}

    def curves(network, data):
        return np.array([compiled(network, steps)(data, seed) for seed in seeds])

    found = {network: curves(network, data) for network in NETWORKS}
    found["convolutional, shuffled"] = curves("convolutional", mixed)
    ends = {name: curve[:, -1] for name, curve in found.items()}
    lines = [
        Series(name, [(SHOWN * (at + 1), float(y)) for at, y in enumerate(curve.mean(axis=0))])
        for name, curve in found.items()
    ]
    gap = float(ends["convolutional"].mean() - ends["convolutional, shuffled"].mean())
    findings = [
        at_least("perceptron above logistic", 10, float(ends["perceptron"].mean() - ends["logistic"].mean())),
        at_least("convolutional above shuffled signals", 10, gap),
    ]
    if not quick:
        asked = {**PAPER, "convolutional, shuffled": SHUFFLED}
        findings += [within(f"% of test signals right, {name}", asked[name], ends[name], 3) for name in asked]
    return Found(findings, {"% of test signals right, by step": line_chart("% right", lines)})


reproduction = Reproduction(
    title="MNIST-1D by a linear model, a perceptron and convolutions",
    paper="Greydanus and Kobak 2024, arXiv:2011.14439",
    where="the table in the README of github.com/greydanus/mnist1d, networks and training of its notebooks",
    setting="other",
    difference=(
        "signals made anew by the authors' package mnist1d (PyPI, pip install 'ft_jax[mnist1d]') with its own numbers "
        "and seed, in place of the frozen file that its notebooks load."
    ),
    measure=measure,
    seeds=(0, 1, 2),
    seconds=196,
)
