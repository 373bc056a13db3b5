"""GradNorm's toy: regressions that differ in scale alone, on one trunk, and what is left of each task's loss."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ft_jax import adaptive
from ft_jax.core import Outputs, compose, make_step, optimizer
from ft_jax.training.report.charts import Series, line_chart
from ft_jax.training.reproduction import Found, Reproduction, at_least, at_most

INPUTS, OUTPUTS, WIDTH, LAYERS, BATCH = 50, 20, 100, 4, 64
STEPS, SHOWN, QUICK, TESTED = 6000, 200, 600, 512
SCALES = {2: (1.0, 100.0), 10: tuple(float(scale) for scale in np.linspace(1, 100, 10))}
"""σ of the tasks, by how many there are."""

COMMON, OWN = 10.0**0.5, 3.5**0.5
"""Deviations of the numbers of B, and of those of ε."""

ALPHA, RATE = 0.12, 1e-3
"""GradNorm's, the paper's for the toy, and Adam's."""

MOST = 0.95
"""Of equal weights' sum of loss ratios, at most this is asked of GradNorm."""

EQUAL, NORM = "equal weights", "GradNorm"


def names(tasks: int) -> tuple[str, ...]:
    """The terms of the loss."""
    return tuple(f"task{at}" for at in range(tasks))


def start(tasks: int, key: jax.Array) -> dict[str, Any]:
    """The network: a trunk of ReLU layers, and an affine head for each task."""
    keys = jax.random.split(key, LAYERS + 1)
    sizes = [INPUTS, *[WIDTH] * LAYERS]
    trunk = {
        str(at): {
            "kernel": jax.random.normal(keys[at], (sizes[at], sizes[at + 1])) * (2 / sizes[at]) ** 0.5,
            "bias": jnp.zeros(sizes[at + 1]),
        }
        for at in range(LAYERS)
    }
    heads = jax.random.normal(keys[-1], (tasks, WIDTH, OUTPUTS)) * WIDTH**-0.5
    return {"trunk": trunk, "head": {"kernel": heads, "bias": jnp.zeros((tasks, OUTPUTS))}}


def predicted(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """``x [batch, inputs]`` to ``[tasks, batch, outputs]``."""
    for at in range(LAYERS):
        x = jax.nn.relu(x @ params["trunk"][str(at)]["kernel"] + params["trunk"][str(at)]["bias"])
    return jnp.einsum("bw,two->tbo", x, params["head"]["kernel"]) + params["head"]["bias"][:, None]


def squares(params: dict[str, Any], batch: dict[str, jax.Array]) -> jax.Array:
    """Each task's mean squared error, ``[tasks]``."""
    return jnp.mean((predicted(params, batch["x"]) - jnp.moveaxis(batch["y"], 1, 0)) ** 2, axis=(1, 2))


def loss(params, batch, context):
    """A term for each task."""
    found = squares(params["model"], batch)
    return dict(zip(names(len(found)), found, strict=True)), Outputs(hidden=batch["x"])


@functools.cache
def compiled(tasks: int, name: str, steps: int):
    """``key -> loss ratios on test data``, ``[steps / SHOWN + 1, tasks]``."""
    last = (f"model/trunk/{LAYERS - 1}/*",)  # that the tasks share
    method = compose() if name == EQUAL else compose(adaptive.gradnorm(names(tasks), alpha=ALPHA, of=last))
    program = make_step(loss, optimizer(optax.adam, learning_rate=RATE), method)
    scales = jnp.array(SCALES[tasks])[:, None, None]

    def run(key):
        model, common, own, test, train = jax.random.split(key, 5)
        shared = COMMON * jax.random.normal(common, (INPUTS, OUTPUTS))
        apart = OWN * jax.random.normal(own, (tasks, INPUTS, OUTPUTS))

        def drawn(key, count):
            x = jax.random.normal(key, (count, INPUTS)) / INPUTS**0.5
            y = scales * jnp.tanh(jnp.einsum("bi,tio->tbo", x, shared + apart))
            return {"x": x, "y": jnp.moveaxis(y, 0, 1)}

        held = drawn(test, TESTED)

        def some(state, keys):
            one = lambda state, key: (program.step(state, drawn(key, BATCH))[0], None)  # noqa: E731
            before = squares(state.params["model"], held)
            return jax.lax.scan(one, state, keys)[0], before

        state = program.init(start(tasks, model), key)
        state, seen = jax.lax.scan(some, state, jax.random.split(train, steps).reshape(-1, SHOWN))
        seen = jnp.concatenate([seen, squares(state.params["model"], held)[None]])
        return seen / seen[0]

    return jax.jit(run)


def measure(seeds, quick):
    """The sum of the tasks' loss ratios at the end, with equal weights and with GradNorm."""
    steps, findings, pictures = QUICK if quick else STEPS, [], {}
    for tasks in SCALES:
        curves = {
            name: np.array([compiled(tasks, name, steps)(jax.random.key(seed)) for seed in seeds])
            for name in (EQUAL, NORM)
        }
        sums = {name: curve[:, -1].sum(axis=-1) for name, curve in curves.items()}
        what = f"{tasks} tasks: sum of test loss ratios, GradNorm's over equal weights'"
        findings.append(at_most(what, MOST, sums[NORM] / sums[EQUAL], paper="below 1"))
        pictures[f"{tasks} tasks: sum of the test loss ratios, mean over seeds"] = line_chart(
            "sum of loss ratios",
            [
                Series(name, [(SHOWN * at, float(y)) for at, y in enumerate(curve.sum(axis=-1).mean(axis=0))])
                for name, curve in curves.items()
            ],
        )
        if not quick:
            least = curves[EQUAL][:, -1, 0] - curves[NORM][:, -1, 0]
            findings.append(
                at_least(f"{tasks} tasks: loss ratio of the smallest task that GradNorm takes away", 0.0, least)
            )
    return Found(findings, pictures)


reproduction = Reproduction(
    title="GradNorm's toy problem",
    paper="Chen et al. 2018, arXiv:1711.02257",
    where="section 4 and figure 2",
    setting="other",
    difference=(
        "50 inputs for 250 and 20 outputs for 100, inputs of length about 1, examples drawn anew in each step; the "
        "weights descend in their logarithm."
    ),
    measure=measure,
    seeds=(0, 1, 2),
    seconds=160,
)
