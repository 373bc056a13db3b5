"""Split MNIST in three scenarios: what EWC, SI, LwF, replay and iCaRL keep of five pairs of digits in turn."""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ft_jax import incremental, models
from ft_jax.core import Composition, Loss, Outputs, compose, make_step, mean_cross_entropy, optimizer
from ft_jax.training.report.charts import Series, line_chart
from ft_jax.training.reproduction import Found, Reproduction, at_least, within

from ..study import best_of
from ._mnist import batch as shaped
from ._permuted import digits, example

TASKS, BATCH, WIDTHS = 5, 128, (400, 400)
STEPS, QUICK, CURVATURE = 100, 20, 2
"""Steps of a task, in a whole run and in a quick one, and batches at a task's end for EWC's Fisher information."""

KEPT = 30
"""A buffer holds one training digit in so many: the paper's budget is 2,000 of 60,000."""

STRENGTHS: Mapping[str, tuple[float, ...]] = {
    "EWC": (1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10),
    "SI": (1.0, 10.0, 100.0, 1e3, 1e4),
}
"""Weights of the penalties that are tried at a seed of their own, on a held-out tenth of the training digits."""

TRIED = 100
"""The seed of the trials."""

OUTPUTS = {"task": 10, "domain": 2, "class": 10}
"""The scenarios, and how many outputs the network has: one for each digit, or the two that all pairs share."""

NAIVE, JOINT, ICARL = "naive", "joint", "iCaRL"
LWF = "incremental.lwf"


def methods(scenario: str, capacity: int) -> dict[str, Composition]:
    """What the names of the table stand for."""
    found = {
        NAIVE: compose(),
        "EWC": compose(incremental.ewc()),
        "SI": compose(incremental.synaptic_intelligence()),
        "LwF": compose(incremental.lwf()),
        "ER": compose(incremental.replay(capacity, BATCH, example(BATCH))),
        JOINT: compose(),
    }
    if scenario != "class":
        return found
    model = models.mlp(network(scenario), jax.random.key(0))
    return found | {ICARL: compose(incremental.icarl(model.apply, model.params, example(BATCH), capacity, BATCH))}


def names(scenario: str) -> tuple[str, ...]:
    """The methods of a scenario."""
    return tuple(methods(scenario, OUTPUTS[scenario]))


def network(scenario: str) -> models.MLPConfig:
    """The perceptron of a scenario."""
    return models.MLPConfig((28, 28, 1), WIDTHS, OUTPUTS[scenario])


def among(outputs: Outputs, classes: jax.Array) -> Outputs:
    """Outputs whose logits are closed but for some classes, ``[batch, 10]``."""
    return Outputs(hidden=jnp.where(classes, outputs.logits, -1e9), unembedding=jnp.eye(10))


def told(apply: Callable, scenario: str, lwf: bool) -> Loss:
    """The cross-entropy of a scenario: among the pair's digits where the task is known, else among all outputs.

    Where LwF compares answers in training, they are those on digits of earlier pairs: the others have no teacher.
    """

    def loss(params, batch, context):
        outputs, label = context.run(apply, params, batch), batch["labels"][:, None]
        if scenario == "task":
            known = among(outputs, jnp.arange(10) // 2 == label // 2)
        else:
            known = outputs
        terms = {"task": mean_cross_entropy(known, batch)}
        if lwf and context.train and scenario != "domain":
            return terms, among(outputs, jnp.arange(10) // 2 < label // 2)
        return terms, known

    return loss


@functools.cache
def compiled(scenario: str, name: str, capacity: int):
    """``(start, learn, end, answers)`` of a method in a scenario.

    ``start(seed, strength)`` is the state, ``learn(state, part, steps)`` trains on rows ``[steps, BATCH]`` of a split,
    ``end(state, part, rows)`` ends a task, and ``answers(state, part)`` are the outputs that a split gets.
    """
    config, method = network(scenario), methods(scenario, capacity)[name]
    apply = models.mlp(config, None).apply
    program = make_step(told(apply, scenario, LWF in method.names), optimizer(optax.adam, learning_rate=1e-3), method)

    def start(seed, strength=None):
        state = program.init(models.mlp(config, jax.random.key(seed)).params, jax.random.key(seed))
        if strength is None:
            return state
        return state.with_hyper({f"{method.names[0]}.weight": strength})

    def drawn(part, rows):
        found = shaped(part, rows)
        return {**found, "labels": found["labels"] % OUTPUTS[scenario]}

    @jax.jit
    def learn(state, part, steps):
        return jax.lax.scan(lambda one, at: (program.step(one, drawn(part, at))[0], None), state, steps)[0]

    @jax.jit
    def end(state, part, rows):
        stack = jax.tree.map(lambda x: x.reshape(*rows.shape, *x.shape[1:]), drawn(part, rows.ravel()))
        return program.after_task(state, stack) if program.after_task else state

    @jax.jit
    def answers(state, part):
        return jnp.argmax(program.evaluate(state, drawn(part, slice(None))).predictions, axis=-1)

    return start, learn, end, answers


def accuracies(
    scenario: str,
    name: str,
    address: str,
    seed: int,
    steps: int,
    strength: float | None = None,
    *,
    held_out: bool = False,
) -> np.ndarray:
    """The accuracy on each pair after each, ``[TASKS, TASKS]``; of joint training only the last row counts.

    Args:
      scenario, name: of `methods`.
      address: of the digits.
      seed: of the network and of the order of the digits.
      steps: of a task.
      strength: of a penalty; None for the method's own.
      held_out: asks every tenth training digit, which then is not learned from, and no test digit.
    """
    parts, random = digits(address), np.random.default_rng(seed)
    labels = {split: np.asarray(part["labels"]) for split, part in parts.items()}
    kept_back = np.arange(len(labels["train"])) % 10 == 9
    learns = ~kept_back if held_out else np.ones(len(kept_back), bool)
    asked, rows_asked = ("train", kept_back) if held_out else ("test", np.ones(len(labels["test"]), bool))
    start, learn, end, answers = compiled(scenario, name, max(10, len(labels["train"]) // KEPT))
    state, table = start(seed, strength), np.zeros((TASKS, TASKS))
    for task in range(TASKS):
        own = np.flatnonzero(learns & ((labels["train"] // 2 == task) | (name == JOINT)))
        passes = [random.permutation(own) for _ in range(steps * BATCH // len(own) + 1)]
        rows = np.concatenate(passes)[: steps * BATCH].reshape(steps, BATCH)
        state = learn(state, parts["train"], jnp.asarray(rows))
        # iCaRL chooses among all digits of the pair.
        shown = own[None] if name == ICARL else rows[-CURVATURE:]
        state = end(state, parts["train"], jnp.asarray(shown))
        right = np.asarray(answers(state, parts[asked])) == labels[asked] % OUTPUTS[scenario]
        table[task] = [right[rows_asked & (labels[asked] // 2 == pair)].mean() for pair in range(TASKS)]
    return table


def strongest(scenario: str, name: str, address: str, steps: int) -> float | None:
    """The weight of a penalty that is best at the trials' seed; None for a method that has none."""

    def end(weight):
        return accuracies(scenario, name, address, TRIED, steps, weight, held_out=True)[-1].mean()

    return best_of(STRENGTHS.get(name, ()), end)


def measure(seeds, quick, address):
    """The mean test accuracy over all pairs after the last, by scenario and method."""
    steps, tables, strengths = QUICK if quick else STEPS, {}, {}
    for scenario in OUTPUTS:
        for name in names(scenario):
            strengths[scenario, name] = strongest(scenario, name, address, steps)
            found = [accuracies(scenario, name, address, seed, steps, strengths[scenario, name]) for seed in seeds]
            tables[scenario, name] = np.array(found)
    ends = {key: table[:, -1].mean(axis=-1) for key, table in tables.items()}
    pictures = {
        f"{scenario}-incremental: mean accuracy on the pairs so far": line_chart(
            "accuracy", lines({name: found for (of, name), found in tables.items() if of == scenario})
        )
        for scenario in OUTPUTS
    }
    return Found([*order(ends), *([] if quick else numbers(ends, strengths))], pictures)


def lines(tables: Mapping[str, np.ndarray]) -> list[Series]:
    """The mean over the pairs so far, by pair."""
    return [
        Series(name, [(task + 1, float(found[:, task, : task + 1].mean())) for task in range(TASKS)])
        for name, found in tables.items()
        if name != JOINT
    ]


def order(ends: Mapping[tuple[str, str], np.ndarray]) -> list:
    """Who is above whom, as the paper's table has it."""

    def above(scenario: str, these: Sequence[str], those: Sequence[str], margin: float):
        best = max(those, key=lambda one: ends[scenario, one].mean())
        least = min(these, key=lambda one: ends[scenario, one].mean())
        gap = float(ends[scenario, least].mean() - ends[scenario, best].mean())
        said = " and ".join(these)
        what = (
            f"{scenario}-incremental: {said} (least {ends[scenario, least].mean():.3f}) above {' and '.join(those)} "
            f"(best {ends[scenario, best].mean():.3f})"
        )
        return at_least(what, margin, gap, paper="above")

    penalties = ("EWC", "SI", "LwF")
    return [
        above("task", (*penalties, "ER"), (NAIVE,), 0.02),
        above("domain", ("ER",), (*penalties, NAIVE), 0.05),
        above("domain", penalties, (NAIVE,), 0.0),
        above("class", (ICARL, "ER"), (*penalties, NAIVE), 0.3),
        *(
            above(scenario, (JOINT,), tuple(n for s, n in ends if s == scenario and n != JOINT), 0.0)
            for scenario in OUTPUTS
        ),
    ]


def numbers(ends: Mapping[tuple[str, str], np.ndarray], strengths: Mapping[tuple[str, str], float | None]) -> list:
    """The numbers that the paper's table has, and naive training's."""
    weight = {scenario: f"EWC (weight {strengths[scenario, 'EWC']:g})" for scenario in OUTPUTS}
    return [
        within(f"task-incremental: {weight['task']}", 0.9864, ends["task", "EWC"], 0.01),
        within(f"domain-incremental: {weight['domain']}", 0.6395, ends["domain", "EWC"], 0.05),
        within(f"class-incremental: {weight['class']}", 0.2001, ends["class", "EWC"], 0.002),
        within("class-incremental: iCaRL", 0.9457, ends["class", ICARL], 0.03),
    ]


reproduction = Reproduction(
    title="Split MNIST in three scenarios",
    paper="van de Ven and Tolias 2019, arXiv:1904.07734",
    where="table 4",
    setting="other",
    difference=(
        "with a file of 10,000 digits, 100 steps a pair for 2,000 and a buffer of one digit in 30, as 2,000 of 60,000; "
        "the Fisher information of a pair's last 256 examples; class-incrementally all ten outputs answer from the "
        "start."
    ),
    measure=measure,
    seeds=(0, 1, 2),
    seconds=1030,
    data="mnist",
)
