"""PBT's toy: two workers, each blind to half of the problem, that only exploring and exploiting together solves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ft_jax.core import Method, Outputs, compose, jit_step, make_step, optimizer
from ft_jax.training.report.charts import Series, line_chart
from ft_jax.training.reproduction import Found, Reproduction, at_least, within
from ft_jax.tuning import Pbt, population

STEPS, EVERY, RATE = 200, 5, 0.03
HALVES = {"surrogate.h0": [1.0, 0.0], "surrogate.h1": [0.0, 1.0]}
BOUNDS = dict.fromkeys(HALVES, (0.0, 1.0))
KINDS = {
    "grid": None,
    "exploit only": Pbt(share=0.5, factors=(1.0,)),
    "explore only": Pbt(share=0.5, factors=(1.0,), noise=0.1, exploits=False),
    "PBT": Pbt(share=0.5, factors=(1.0,), noise=0.1),
}


def surrogate(params, batch, context):
    """``-Q̂ = h₀ θ₀² + h₁ θ₁² - 1.2``: what a worker descends, which is the problem only where both h are 1."""
    h, theta = context.hyper["surrogate"], params["model"]["theta"]
    return {"task": h["h0"] * theta[0] ** 2 + h["h1"] * theta[1] ** 2 - 1.2}, Outputs(hidden=theta[None])


def quality(theta):
    """``Q = 1.2 - (θ₀² + θ₁²)``, what workers are judged by."""
    return 1.2 - jnp.sum(theta**2, axis=-1)


@functools.cache
def compiled(kind):
    """A population's program, its step and what it does after an evaluation, None for nothing."""
    schedule = KINDS[kind]
    method = population(HALVES, schedule=schedule, metric="Q", mode="max", bounds=BOUNDS)
    numbers = Method(name="surrogate", hyper={"h0": 1.0, "h1": 1.0})
    program = make_step(surrogate, optimizer(optax.sgd, learning_rate=RATE), compose(method, numbers))
    return program, jit_step(program.step), jax.jit(program.after_eval) if program.after_eval else None


def run(kind, seed):
    """The best worker's Q after each evaluation."""
    program, step, judge = compiled(kind)
    state = program.init({"theta": jnp.array([0.9, 0.9])}, jax.random.key(seed))
    best = [float(quality(state.params["model"]["theta"]).max())]
    for index in range(STEPS):
        state, _ = step(state, {"x": jnp.zeros((1,))})
        if (index + 1) % EVERY == 0:
            scores = quality(state.params["model"]["theta"])
            best.append(float(scores.max()))
            state = state if judge is None else judge(state, {"Q": scores})
    return best


def measure(seeds, quick):
    """Where each kind of search ends over the seeds."""
    curves = {kind: np.array([run(kind, seed) for seed in seeds]) for kind in KINDS}
    ends = {kind: curve[:, -1].tolist() for kind, curve in curves.items()}
    lines = [
        Series(kind, [(EVERY * at, float(q)) for at, q in enumerate(curve.mean(0))]) for kind, curve in curves.items()
    ]
    return Found(
        [
            within("Q of the best worker, grid search (h fixed)", 0.39, ends["grid"], 1e-3),
            within("Q of the best worker, exploit only", 0.39, ends["exploit only"], 1e-3),
            at_least("Q of the best worker, PBT", 1.19, ends["PBT"], paper="near 1.2"),
            at_least("Q of the best worker, explore only", 1.17, ends["explore only"]),
        ],
        {"Q of the best worker by step (most is 1.2)": line_chart("Q", lines)},
    )


reproduction = Reproduction(
    title="Population-based training's toy problem",
    paper="Jaderberg et al. 2017, arXiv:1711.09846",
    where="figure 2",
    setting="other",
    difference="The paper gives no rate, steps or noise; ours are 0.03, 200 and 0.1, with an evaluation every 5 steps.",
    measure=measure,
    seeds=(0, 1, 2, 3, 4),
    seconds=9,
)
