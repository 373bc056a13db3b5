"""CAGrad's toy: two losses on the plane, where Adam gets stuck and the older rules stop anywhere on the front.

MGDA does not stop here: on the front its direction is small and not 0 (2e-5 along x at ``(-5, -8)``, in float64 too),
and Adam divides by that size, so that with its program solved exactly it reaches the optimum as well.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ft_jax import adaptive
from ft_jax.core import Outputs, make_step, optimizer
from ft_jax.training.report.charts import Series, line_chart
from ft_jax.training.reproduction import Found, Reproduction, at_least, within

STARTS = ((-8.5, 7.5), (-8.5, -5.0), (9.0, 9.0))
STEPS, SHOWN, QUICK = 100_000, 500, 20_000
RULES = {"Adam": lambda: None, "PCGrad": adaptive.pcgrad, "MGDA": adaptive.mgda, "CAGrad": lambda: adaptive.cagrad(0.5)}
OPTIMUM = -15.092
"""The least mean loss, near ``(0, -8.36)``: on ``x = 0`` it is ``tanh(-y / 2) · ((49 + (y + 8)² / 10) / 10 - 20)``."""


def losses(point):
    """Both tasks' losses at ``point [2]`` (the paper's appendix on the toy): valleys above, bowls below ``y = 0``."""
    x, y = point
    valleys = jnp.stack([0.5 * (-x - 7) - jnp.tanh(-y), 0.5 * (-x + 3) + jnp.tanh(-y) + 2])
    valleys = jnp.log(jnp.maximum(jnp.abs(valleys), 5e-6)) + 6
    bowls = jnp.stack(
        [((-x + 7) ** 2 + 0.1 * (-y - 8) ** 2) / 10 - 20, ((-x - 7) ** 2 + 0.1 * (-y - 8) ** 2) / 10 - 20]
    )
    return valleys * jnp.maximum(jnp.tanh(0.5 * y), 0) + bowls * jnp.maximum(jnp.tanh(-0.5 * y), 0)


def task(params, batch, context):
    """Their mean, as two terms."""
    first, second = losses(params["model"]["point"]) / 2
    return {"first": first, "second": second}, Outputs(hidden=params["model"]["point"][None])


@functools.cache
def compiled(rule, steps):
    """``starts [count, 2] -> mean loss [count, steps / SHOWN + 1]`` along the way of each."""
    method = RULES[rule]()
    arguments = () if method is None else (method,)
    program = make_step(task, optimizer(optax.adam, learning_rate=1e-3), *arguments)

    def way(start):
        def some(state, _):
            before = losses(state.params["model"]["point"]).mean()
            state, _ = jax.lax.scan(
                lambda one, _: (program.step(one, {"x": jnp.zeros((1,))})[0], None), state, length=SHOWN
            )
            return state, before

        state = program.init({"point": start}, jax.random.key(0))
        state, seen = jax.lax.scan(some, state, length=steps // SHOWN)
        return jnp.append(seen, losses(state.params["model"]["point"]).mean())

    return jax.jit(jax.vmap(way))


def measure(seeds, quick):
    """Where each rule ends from the three starts; nothing is random."""
    steps = QUICK if quick else STEPS
    curves = {rule: np.asarray(compiled(rule, steps)(jnp.array(STARTS))) for rule in RULES}
    picture = {
        f"mean loss from {start}": line_chart(
            "mean loss",
            [Series(rule, [(SHOWN * n, float(y)) for n, y in enumerate(curves[rule][at])]) for rule in RULES],
        )
        for at, start in enumerate(STARTS)
    }
    ends = {rule: curve[:, -1] for rule, curve in curves.items()}
    if quick:
        above = float(ends["Adam"].mean() - ends["CAGrad"].mean())
        return Found([at_least("Adam's mean loss above CAGrad's after a fifth of the steps", 0.0, above)], picture)
    gaps = {rule: ends[rule] - OPTIMUM for rule in RULES}
    return Found(
        [
            *(
                within(f"mean loss where CAGrad ends from {start}", OPTIMUM, float(end), 0.05, said="the optimum")
                for start, end in zip(STARTS, ends["CAGrad"], strict=True)
            ),
            at_least(
                "starts from which Adam gets stuck (more than 10 above the optimum)",
                1,
                float((gaps["Adam"] > 10).sum()),
            ),
            at_least(
                "of MGDA's ends (its program solved exactly), the farthest above the optimum",
                1.0,
                float(gaps["MGDA"].max()),
                paper="on the front",
            ),
            at_least(
                "of PCGrad's ends, the farthest above the optimum",
                1.0,
                float(gaps["PCGrad"].max()),
                paper="on the front",
            ),
        ],
        picture,
    )


reproduction = Reproduction(
    title="CAGrad's toy problem",
    paper="Liu et al. 2021, arXiv:2110.14048",
    where="figure 1",
    setting="same",
    measure=measure,
    seconds=60,
)
