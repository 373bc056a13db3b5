"""GradNorm's toy: ten regressions of one shape and ten sizes, which learn at one pace where their gradients do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ft_jax import adaptive
from ft_jax.core import Outputs, make_step, optimizer
from ft_jax.training.report.charts import Series, line_chart
from ft_jax.training.reproduction import Found, Reproduction, at_least

INPUTS, OUTPUTS, WIDTH, LAYERS, BATCH = 250, 100, 100, 4, 100
SIZES = tuple(float(size) for size in np.geomspace(1, 100, 10))
ALPHA, STEPS, QUICK, SHOWN = 0.12, 3000, 300, 100
"""The paper's alpha; our steps."""

SHRINKS = 60.0
"""What ``(B + ε_i) x`` is divided by, near its deviation: else tanh is a sign, which hardly learns."""

TERMS = tuple(f"task_{place}" for place in range(len(SIZES)))
RULES = {"equal weights": lambda: (), "GradNorm": lambda: (adaptive.gradnorm(TERMS, alpha=ALPHA),)}


def network(key):
    """Four layers that all tasks share, and an output for each."""
    keys, he = jax.random.split(key, LAYERS + len(TERMS)), jax.nn.initializers.he_normal()
    shared = [he(one, (INPUTS if at == 0 else WIDTH, WIDTH)) for at, one in enumerate(keys[:LAYERS])]
    return {"shared": shared, "own": jnp.stack([he(one, (WIDTH, OUTPUTS)) for one in keys[LAYERS:]])}


def task(params, batch, context):
    """The mean squared error of each, ``σ_i tanh((B + ε_i) x / SHRINKS)`` being what is asked."""
    x = batch["x"]
    for kernel in params["model"]["shared"]:
        x = jax.nn.relu(x @ kernel)
    errors = jnp.einsum("bw,two->tbo", x, params["model"]["own"]) - jnp.swapaxes(batch["y"], 0, 1)
    return dict(zip(TERMS, jnp.mean(errors**2, axis=(1, 2)), strict=True)), Outputs(hidden=x)


@functools.cache
def compiled(rule: str, steps: int):
    """``seed -> Σ_i L_i(t) / L_i(0) / tasks [steps / SHOWN + 1]`` on inputs that no step sees, by `SHOWN` steps."""
    program = make_step(task, optimizer(optax.adam, learning_rate=1e-3), *RULES[rule]())

    def run(seed):
        common, own, begin, inputs, held = jax.random.split(jax.random.key(seed), 5)
        matrices = jnp.sqrt(10.0) * jax.random.normal(common, (OUTPUTS, INPUTS))
        matrices = matrices + jnp.sqrt(3.5) * jax.random.normal(own, (len(SIZES), OUTPUTS, INPUTS))

        def batch(key):
            x = jax.random.normal(key, (BATCH, INPUTS))
            y = jnp.array(SIZES)[None, :, None] * jnp.tanh(jnp.einsum("toi,bi->bto", matrices, x) / SHRINKS)
            return {"x": x, "y": y}

        unseen = batch(held)

        def losses(state):
            terms = program.evaluate(state, unseen).terms
            return jnp.stack([terms[name] for name in TERMS])

        def some(state, keys):
            state, _ = jax.lax.scan(lambda one, key: (program.step(one, batch(key))[0], None), state, keys)
            return state, losses(state)

        state = program.init(network(begin), begin)
        first = losses(state)
        _, seen = jax.lax.scan(some, state, jax.random.split(inputs, steps).reshape(-1, SHOWN))
        return jnp.concatenate([jnp.ones(1), jnp.mean(seen / first, axis=1)])

    return jax.jit(run)


def measure(seeds, quick):
    """The tasks' losses, each over its first, on average at the end."""
    steps = QUICK if quick else STEPS
    curves = {rule: np.array([compiled(rule, steps)(seed) for seed in seeds]) for rule in RULES}
    ends = {rule: found[:, -1] for rule, found in curves.items()}
    lines = [
        Series(rule, [(SHOWN * at, float(y)) for at, y in enumerate(found.mean(axis=0))])
        for rule, found in curves.items()
    ]
    ratio = (ends["equal weights"] / ends["GradNorm"]).tolist()
    what = f"the ten losses over their first, of equal weights ({ends['equal weights'].mean():.4f}) over GradNorm's"
    return Found(
        [at_least(what, 1.05, ratio, paper="above 1")], {"mean of loss over first loss": line_chart("ratio", lines)}
    )


reproduction = Reproduction(
    title="GradNorm's toy of ten regressions",
    paper="Chen et al. 2018, arXiv:1711.02257",
    where="section 4 and figure 3: the task-normalised test loss is lower than that of equal weights",
    setting="other",
    difference=(
        "the paper gives no inputs, steps or rate: ours are normal inputs, divided by 60 before the tanh, 3,000 steps "
        "of 100 and Adam at 0.001; sizes from 1 to 100 in equal ratios; norms are of all parameters, where the paper's "
        "are of the last shared layer."
    ),
    measure=measure,
    seeds=(0, 1, 2),
    seconds=120,
)
