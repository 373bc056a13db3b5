"""MAML's sinusoids: a network that fits a new curve from five or ten points in a gradient step or ten."""

import functools

import jax
import jax.numpy as jnp
import optax

from ft_jax import models
from ft_jax.core import make_step, optimizer
from ft_jax.core.targets import squared_error
from ft_jax.meta import maml
from ft_jax.training.report.charts import Series, line_chart
from ft_jax.training.reproduction import Found, Reproduction, at_least, at_most

ITERATIONS, QUICK, TASKS, CURVES = 70_000, 5_000, 25, 600
RATE, META_RATE = 0.01, 1e-3
BASELINE_RATES = (0.001, 0.003, 0.01, 0.03)
BANDS = {5: (0.8, 0.45), 10: (0.5, 0.2)}
PRINTED = {5: ("about 0.7", "0.3 to 0.4"), 10: ("0.4 to 0.5", "0.1 to 0.2")}
CONFIG = models.MLPConfig(image=(1, 1, 1), widths=(40, 40), classes=1)


def curves(key, shots, queries, tasks):
    """Episodes of ``amplitude · sin(x - phase)``: amplitude in [0.1, 5], phase in [0, π], x in [-5, 5]."""
    one, two, three = jax.random.split(key, 3)
    amplitude = jax.random.uniform(one, (tasks, 1), minval=0.1, maxval=5.0)
    phase = jax.random.uniform(two, (tasks, 1), maxval=jnp.pi)
    x = jax.random.uniform(three, (tasks, shots + queries), minval=-5.0, maxval=5.0)
    whole = {"images": x[..., None, None, None], "labels": amplitude * jnp.sin(x - phase)}
    return {"support": cut(whole, 0, shots), "query": cut(whole, shots, None)}


def cut(whole, begin, end):
    """The examples of every task from one place to another."""
    return jax.tree.map(lambda x: x[:, begin:end], whole)


@functools.cache
def program_of(inner):
    """MAML's program, or with ``inner=False`` that of plain training on points of all curves."""
    model = models.mlp(CONFIG, jax.random.key(0))
    method = (maml(RATE, 1),) if inner else ()
    return make_step(squared_error(model.apply), optimizer(optax.adam, learning_rate=META_RATE), *method)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def trained(key, data_key, shots, iterations, inner):
    """The parameters after training on fresh curves in every step."""
    program = program_of(inner)
    params = models.mlp(CONFIG, key).params

    def step(state, number):
        batch = curves(jax.random.fold_in(data_key, number), shots, shots, TASKS)
        if not inner:
            batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch["support"])
        return program.step(state, batch)[0], None

    state, _ = jax.lax.scan(step, program.init(params, key), jnp.arange(iterations))
    return state.params["model"]


@jax.jit
def errors(params, key, batch, rate):
    """Mean squared error on every curve's query after 0 to 10 gradient steps on its support."""
    program = program_of(True)
    state = program.init(params, key)

    def after(steps):
        own = state.with_hyper({"meta.maml.evaluation_steps": steps, "meta.maml.inner_rate": rate})
        return program.evaluate(own, batch).terms["task"]

    return jax.lax.map(after, jnp.arange(11, dtype=jnp.float32))


def measure(seeds, quick):
    """Errors of MAML and of the pretrained network at the step size that is best for it."""
    iterations = QUICK if quick else ITERATIONS
    findings, pictures = [], {}
    for shots, (one, ten) in BANDS.items():
        learned, plain = [], []
        for seed in seeds:
            key = jax.random.key(seed)
            batch = curves(jax.random.fold_in(key, 1), shots, 100, CURVES)
            data_key = jax.random.fold_in(key, 2)
            learned.append(errors(trained(key, data_key, shots, iterations, True), key, batch, RATE))
            pretrained = trained(key, data_key, shots, iterations, False)
            rows = [errors(pretrained, key, batch, rate) for rate in BASELINE_RATES]
            plain.append(min(rows, key=lambda row: float(row[10])))
        maml_, base = jnp.stack(learned), jnp.stack(plain)
        said = f"{shots} shots: mean squared error after"
        if not quick:
            first, last = PRINTED[shots]
            findings += [
                at_most(f"{said} 0 steps", 4.0, maml_[:, 0], paper="about 3"),
                at_most(f"{said} 1 step", one, maml_[:, 1], paper=first),
                at_most(f"{said} 10 steps", ten, maml_[:, 10], paper=last),
            ]
            times = base[:, 10] / maml_[:, 10]
            what = f"{shots} shots: the pretrained network's error after 10 steps by MAML's"
            findings.append(at_least(what, 2.0, times))
        else:
            what = f"{shots} shots, {iterations} iterations: MAML's error at the start by that after 10 steps"
            findings.append(at_least(what, 1.2, maml_[:, 0] / maml_[:, 10]))
        lines = {"MAML": maml_, "pretrained": base}
        series = [
            Series(name, [(step, [float(v) for v in rows[:, step]]) for step in range(11)])
            for name, rows in lines.items()
        ]
        pictures[f"{shots} shots: error by gradient steps (MAML, pretrained)"] = line_chart("error", series)
    return Found(findings, pictures)


reproduction = Reproduction(
    title="MAML's sinusoids from 5 and 10 points",
    paper="Finn et al. 2017, arXiv:1703.03400",
    where="figure 3",
    setting="same",
    measure=measure,
    seeds=(0,),
    seconds=205,
)
