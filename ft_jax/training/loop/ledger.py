"""The ledger of a run's numbers: what changed them between steps, and a line of the log for each that changed."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ft_jax.core import TrainState
from ft_jax.training.logging import HYPER_AT, Log
from ft_jax.training.loop.numbers import changes, check_returned, in_place, numbers_of
from ft_jax.training.prepare import Plan
from ft_jax.training.result import Moment


class Ledger:
    """The numbers as they were last seen.

    Args:
      plan: of the run.
      state: on its devices.
    """

    def __init__(self, plan: Plan, state: TrainState):
        self.collect, self.changing = plan.distributed.collect, bool(plan.distributed.after_eval)
        self.stepping = ", ".join(name for name, _ in plan.composition.inwards("after_step"))
        self.numbers = self.read(state)

    def read(self, state: TrainState) -> dict[str, np.ndarray]:
        """The state's numbers on the host."""
        return numbers_of(self.collect(state.hyper))

    def rates(self) -> dict[str, np.ndarray]:
        """For the log of steps: the numbers, where evaluations may change them."""
        return {f"hyper.{name}": value for name, value in self.numbers.items()} if self.changing else {}

    def stepped(self, state: TrainState, log: Log, step: int) -> None:
        """Before something else changes numbers: notes what methods have changed in steps."""
        if self.stepping:
            self.changed(state, f"{self.stepping} in a step", log, step)

    def changed(self, state: TrainState, by: str, log: Log, step: int) -> None:
        """Notes the state's numbers, with a line in the log for each that is not what it was."""
        before, self.numbers = self.numbers, self.read(state)
        for message, values in changes(before, self.numbers):
            log.event(step, by, message, **values)

    def scheduled(self, state: TrainState, hyper: Mapping[str, float], log: Log, step: int) -> TrainState:
        """The state with the numbers that the experiment has for this step."""
        self.stepped(state, log, step)
        state = state.replace(hyper=in_place(state.hyper, state.with_hyper(hyper).hyper))
        self.changed(state, HYPER_AT, log, step)
        return state

    def called(self, moment: Moment, callbacks: Sequence[Callable[[Moment], Any]], log: Log) -> TrainState:
        """Calls the callbacks one after another; the state to go on with, which one may return."""
        state = moment.state
        for callback in callbacks:
            given = callback(dataclasses.replace(moment, state=state))
            if given is None or given is state:
                continue
            name = getattr(callback, "__name__", type(callback).__name__)
            check_returned(state, given, name)
            self.stepped(state, log, moment.step)
            frozen = state.frozen
            state = in_place(state.replace(frozen=None), given.replace(frozen=None)).replace(frozen=frozen)
            log.event(moment.step, name, "the callback returned a state, which the run goes on with")
            self.changed(state, name, log, moment.step)
        return state
