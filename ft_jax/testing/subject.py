"""A method on the tiny problem, with the few programs that its laws share."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ft_jax.core import Neutral, Problem, catalogue, compose, jit_step, merge, outputs_of, parameters
from ft_jax.core.state import Batch
from ft_jax.testing.problem import HALVES, example, examples, joined, problem, program_of

STEPS = 3


class Subject:
    """What the laws are asked of: a method or a composition, built for the tiny problem, and how to run it.

    A step is compiled once, with its state donated, and serves most of the laws; what runs once (surgery, evaluation,
    merging) is evaluated operation by operation, whose small programs all methods share.

    Args:
      build: ``problem -> method``, or a composition.
      batch: from the problem's batch to the one that the method trains on; the same by default.
      neutral: where it does nothing, or why there is no such place, see `ft_jax.core.catalogue.Entry`.
      pretrained, mergeable: as in `ft_jax.core.catalogue.Entry`.
      layers: of the problem's decoder.
    """

    def __init__(
        self,
        build: Callable[[Problem], Any],
        *,
        batch: Callable[[Batch], Batch] | None = None,
        neutral: Neutral | str = "",
        pretrained: bool = True,
        mergeable: bool = True,
        layers: int = 1,
    ):
        self.neutral, self.pretrained, self.mergeable = neutral, pretrained, mergeable
        self.layers, self.layout = layers, batch or (lambda batch: batch)
        self.problem = problem(layers)
        self.method = build(self.problem)
        self.name = " over ".join(compose(self.method).names) or "nothing"
        self.program = program_of(self.method, layers)
        self.step = jit_step(self.program.step)

    @functools.cached_property
    def batch(self) -> Batch:
        """What it trains on."""
        return joined([self.layout(examples(half)) for half in range(HALVES)])

    @property
    def lifts(self) -> bool:
        """Whether it maps the whole program, so that its members have no one model."""
        return any(part.lift is not None for part in compose(self.method))

    @property
    def one_model(self) -> "Subject":
        """Itself, or nothing instead of a method that lifts."""
        return nothing(self.layers) if self.lifts else self

    def start(self, key: jax.Array | None = None) -> Any:
        """A fresh state; that of the problem's own key is made once."""
        return self._first if key is None else self.program.init(self.problem.params, key)

    @functools.cached_property
    def _first(self):
        return self.program.init(self.problem.params, jax.random.key(3))

    def train(self, state: Any = None, steps: int = STEPS, batch: Batch | None = None) -> tuple[Any, list]:
        """`steps` steps from `state`, which stays whole, on one batch: the state and the list of metrics."""
        state = self.start() if state is None else state
        return trained(self.step, copied(state), self.batch if batch is None else batch, steps)

    @functools.cached_property
    def run(self) -> tuple[Any, list]:
        """The run that the laws compare with: `STEPS` steps from the start."""
        return self.train()

    def dense(self, state: Any) -> Any:
        """The model's dense parameters, adapters merged."""
        return merge(parameters(state, self.method)["model"])

    def answers(self, state: Any) -> jax.Array:
        """The tuned model's answer to plain examples."""
        return outputs_of(state, self.method, self.problem.apply, self.problem.batch).logits

    def logits(self, params: Any) -> jax.Array:
        """The network's answer to plain examples."""
        return self.problem.apply(params, self.problem.batch, None).logits


def copied(state: Any) -> Any:
    """`state` in arrays of its own, the frozen ones excepted, to be given to a step that uses it up."""
    return jax.tree.map(jnp.copy, state.replace(frozen=None)).replace(frozen=state.frozen)


def trained(step: Callable, state: Any, batch: Batch, steps: int = STEPS) -> tuple[Any, list]:
    """`steps` steps on one batch, the state given away: the state and the list of metrics."""
    history = []
    for _ in range(steps):
        state, metrics = step(state, batch)
        history.append(metrics)
    return state, history


@functools.cache
def nothing(layers: int = 1) -> Subject:
    """Training without any method."""
    return Subject(lambda problem: compose(), layers=layers)


@functools.lru_cache(maxsize=1)
def subject(name: str, layers: int = 1) -> Subject:
    """A method of the catalogue; the last one is kept, so ask for its laws one after the other."""
    entry = catalogue[name]
    return Subject(
        lambda problem: example(name, layers=layers),
        batch=entry.batch,
        neutral=entry.neutral,
        pretrained=entry.pretrained,
        mergeable=entry.mergeable,
        layers=layers,
    )


def plain_like(subject: Subject) -> Subject:
    """What `subject` is to equal at its neutral point."""
    if subject.neutral.like is None:
        return nothing(subject.layers)
    return Subject(subject.neutral.like, layers=subject.layers)
