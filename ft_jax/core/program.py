"""The pure functions of a training run."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from ft_jax.core.params import Params
from ft_jax.core.state import Batch, TrainState


class Evaluation(NamedTuple):
    """What `Program.evaluate` gives.

    Attributes:
      terms: the loss's.
      predictions: what ``predict`` made of the outputs.
      weights: how much each label or example counts after every `Method.prepare`, with the trials' axes where a
        program has trials.
    """

    terms: Mapping[str, jax.Array]
    predictions: Any
    weights: jax.Array


class Events(Mapping[str, Callable[[TrainState, Any], TrainState]]):
    """What the parts of a composition do at an event, by the part's name, innermost first.

    Calling it does all of it: ``events(state, argument)``. It is empty, and false, where no part has anything to do.
    """

    def __init__(self, functions: Mapping[str, Callable[[TrainState, Any], TrainState]]):
        self._functions = dict(functions)

    __eq__, __hash__ = object.__eq__, object.__hash__  # jit takes functions, which are equal to themselves alone

    def __getitem__(self, name: str) -> Callable[[TrainState, Any], TrainState]:
        return self._functions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)

    def __call__(self, state: TrainState, argument: Any) -> TrainState:
        """The state after all parts' functions."""
        for function in self._functions.values():
            state = function(state, argument)
        return state

    def map(self, change: Callable[[Callable], Callable]) -> "Events":
        """The events with every function changed, such as by `jax.vmap`."""
        return Events({name: change(function) for name, function in self.items()})


@dataclasses.dataclass(frozen=True)
class Program:
    """The pure functions of a training run; `Method.lift` maps one to another.

    Attributes:
      init: ``(params, key) -> TrainState``; `params` is the model's tree.
      step: ``(state, batch) -> (state, metrics)``.
      evaluate: ``(state, batch) -> Evaluation``, deterministic, of the settled state.
      after_task: ``(state, batches) -> state``, and each part's by name.
      after_eval: ``(state, metrics) -> state``, and each part's by name.
      parameters: ``state -> the whole parameter tree as models see it``, settled: what one saves.
      trials: leading axes that predictions keep, such as ``(8,)`` for a population of eight.
    """

    init: Callable[[Params, jax.Array], TrainState]
    step: Callable[[TrainState, Batch], tuple[TrainState, Mapping[str, jax.Array]]]
    evaluate: Callable[[TrainState, Batch], Evaluation]
    after_task: Events
    after_eval: Events
    parameters: Callable[[TrainState], Params]
    trials: tuple[int, ...] = ()
