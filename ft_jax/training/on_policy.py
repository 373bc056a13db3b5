"""Batches that depend on the policy in training and are made on the host: rewards of programs, simulators, people."""

import base64
import concurrent.futures
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ft_jax.core import Composition, Context, Method, Outputs, TrainState, compose, make_step
from ft_jax.core.batches import rows
from ft_jax.core.params import Params
from ft_jax.data.streams import unmoved
from ft_jax.outside import listed, printable

Batch = Mapping[str, Any]
Act = Callable[[Params, Batch, Context], Any]
Ask = Callable[[Batch], Any]
CALL = "on_policy.call"
"""The field that tells a question's number; every row has the same."""
ACTED = "on_policy.acted"


@dataclasses.dataclass(frozen=True)
class OnPolicy:
    """A task's batches where the policy in training makes them, with a part on the host.

    Of ``ask`` and what is next in `given` the function `make` makes a batch. ``ask(batch) -> arrays`` is `act` at the
    parameters of the run as models see them, compiled once and placed as the step is: on one device, under pmap or on a
    mesh, adapters over a base of which there is no copy. `make` may ask as often as it likes, a simulator once for each
    of its steps. Whatever the host may do in compiled code (a reward that is a function of tokens) is better done
    inside the step, see `ft_jax.rl.grpo`; so are runs of several trials, which this refuses.

    Attributes:
      given: what the policy is asked about, such as prompts or seeds: a `ft_jax.training.stream.Source`.
      act: ``(params, batch, context) -> arrays``, each ``[rows, ...]`` of a multiple of the batch's rows, such as
        `ft_jax.models.generate` gives. The context's keys are new ones for every question, and ``context.rows`` tells
        rows of different devices apart.
      make: ``(ask, what is given) -> batch``, host arrays to train on.
      like: what `make` gives, in shape and type: the step is traced with it before the run, and every batch is held
        against it.
      asks: a batch as `make` asks it, in shape and type; the first of `given` where that is what it asks.
      reuse: updates on each batch.
      ahead: whether the next batch is made, in another thread, while the device computes the last update on this one.
        It then comes from the parameters before that update, of which what learns is copied.

    Example:
      >>> import itertools
      >>> class Seeds:
      ...     at = 0
      ...     def __next__(self): self.at += 1; return {"x": np.full((2, 1), self.at, np.float32)}
      ...     def get_state(self): return self.at
      ...     def set_state(self, at): self.at = at
      >>> act = lambda params, batch, context: {"y": batch["x"] * params["model"]["w"]}
      >>> make = lambda ask, given: {**given, "labels": ask(given)["y"].round()}
      >>> OnPolicy(Seeds(), act, make, like={"x": np.zeros((2, 1), np.float32), "labels": np.zeros((2, 1))}).reuse
      1
    """

    given: Any
    act: Act
    make: Callable[[Ask, Batch], Batch]
    like: Batch
    asks: Batch | None = None
    reuse: int = 1
    ahead: bool = False

    def __post_init__(self):
        if self.reuse < 1:
            raise ValueError(f"reuse is {self.reuse}; give at least 1, the updates on each batch")

    def question(self) -> Batch:
        """A batch as `make` asks it."""
        if self.asks is not None:
            return self.asks
        with unmoved(self.given):
            return next(self.given)


def acting(act: Act, composition: Composition, axis: str | None = None) -> Callable[[TrainState, Batch], Any]:
    """``(state, batch) -> arrays``: `act` through the views and forward passes of all methods, without their losses.

    Args:
      act: see `OnPolicy`.
      composition: of the run.
      axis: the mapped device axis, or None.
    """
    seen = ("view", "forward", "collects")
    quiet = [Method(part.name, **{field: getattr(part, field) for field in seen}) for part in composition]

    def prepare(state, batch, context):
        batch = dict(batch)
        call = batch.pop(CALL)[0]
        keys = {name: jax.random.fold_in(getattr(context, name), call) for name in ("key", "local_key")}
        return state, {ACTED: act(state.params, batch, context.replace(**keys))}

    def loss(params, batch, context):
        return {"nothing": jnp.float32(0)}, Outputs(jnp.zeros((rows(batch), 1)))

    whole = compose(*quiet, Method(name="on_policy", prepare=prepare))
    program = make_step(loss, optax.identity(), whole, axis=axis, predict=lambda outputs, batch: batch[ACTED])
    return lambda state, batch: program.evaluate(state, batch).predictions


def numbered(batch: Batch, call: int) -> Batch:
    """A question with its number, as `acting` takes it."""
    return {**batch, CALL: np.full(len(jax.tree.leaves(batch)[0]), call, np.int32)}


class Actor:
    """An `OnPolicy` task in a run: its batches, and the place after each.

    Args:
      task: what makes them.
      name: of the task.
      ask: ``(state, batch) -> arrays`` on the devices.

    Attributes:
      seconds: that making batches has taken, without waiting for the devices to end the update before.
    """

    def __init__(self, task: OnPolicy, name: str, ask: Callable[[TrainState, Batch], Any]):
        self.seconds = 0.0
        self._task, self._name, self._ask = task, name, ask
        self._batch: Batch | None = None
        self._left = 0
        self._place = task.given.get_state()
        self._next: concurrent.futures.Future | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, f"act {name}") if task.ahead else None

    def take(self, state: TrainState) -> tuple[Batch, "Place"]:
        """The next batch, and the place after it; `state` is on the devices."""
        if self._left == 0:
            made = self._made(state) if self._next is None else self._next.result()
            (self._batch, self._place), self._next, self._left = made, None, self._task.reuse
        self._left -= 1
        if self._thread is not None and self._left == 0:
            self._next = self._thread.submit(self._made, _kept(state))
        return self._batch, Place(self._place, self._batch, self._left, self._next, self._task.reuse)

    def resume(self, place: Mapping[str, Any]) -> None:
        """Stands at a place that was saved."""
        self._task.given.set_state(place["given"])
        self._place, self._left = place["given"], place["left"]
        self._batch = None if place["batch"] is None else _arrays(place["batch"])

    def close(self) -> None:
        """Ends the thread; what it was making is dropped."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def _made(self, state) -> tuple[Batch, Any]:
        calls = 0
        jax.block_until_ready(state)
        begin = time.perf_counter()

        def ask(batch):
            nonlocal calls
            calls += 1
            return self._ask(state, numbered(batch, calls - 1))

        try:
            given = next(self._task.given)
        except StopIteration:
            raise ValueError(
                f"task {printable(self._name)} ran out of what its policy is asked about; its source must repeat the "
                "data without end"
            ) from None
        batch = self._task.make(ask, given)
        check_like(batch, self._task.like, f"task {printable(self._name)}")
        self.seconds += time.perf_counter() - begin
        return batch, self._task.given.get_state()


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an `Actor` stands, with what it has made and not yet given out; told in JSON only when it is saved.

    Attributes:
      given: the place of what the policy is asked about.
      batch: the last that was given out.
      left: how often it will be given out again.
      following: what is being made, or None.
      reuse: how often that will be given out.
    """

    given: Any
    batch: Batch
    left: int
    following: concurrent.futures.Future | None
    reuse: int

    def told(self) -> dict[str, Any]:
        """In JSON; waits for the batch that is being made."""
        if self.following is None:
            return {"given": self.given, "left": self.left, "batch": _text(self.batch) if self.left else None}
        batch, given = self.following.result()
        return {"given": given, "left": self.reuse, "batch": _text(batch)}

    def anew(self) -> dict[str, Any]:
        """In JSON, without what was made: by a policy that is not to be gone on from."""
        return {"given": self.given, "left": 0, "batch": None}


def check_like(batch: Any, like: Batch, where: str) -> None:
    """Raises ValueError, in one sentence, on a batch that is not like what was said of it."""
    if not isinstance(batch, Mapping) or set(batch) != set(like):
        had = listed(batch) if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
        raise ValueError(f"{where} makes batches of {had}, but its like has {listed(like)}; give both the same fields")
    outline = [jax.tree_util.tree_leaves_with_path(dict(one)) for one in (batch, like)]
    for (path, leaf), (_, wanted) in zip(*outline, strict=True):
        is_, was = ((np.shape(one), np.asarray(one).dtype) for one in (leaf, wanted))
        if is_ != was:
            field = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(
                f"{where} makes a field {printable(field)} that is {is_[1]}{list(is_[0])}, but in its like it is "
                f"{was[1]}{list(was[0])}; pad it or change the like"
            )


@jax.jit
def copied(tree: Any) -> Any:
    """A tree in arrays of its own, which a step that uses the other up leaves alone."""
    return jax.tree.map(jnp.copy, tree)


def _kept(state: TrainState) -> TrainState:
    """A state to act by that the next step does not use up; the frozen base is the run's own."""
    return copied(state.replace(frozen=None, opt_state=())).replace(frozen=state.frozen)


def _text(batch: Batch) -> dict[str, Any]:
    """Arrays in JSON."""

    def one(value):
        if isinstance(value, Mapping):
            return {"fields": {name: one(inner) for name, inner in value.items()}}
        array = np.asarray(value)
        bits = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
        return {"dtype": str(array.dtype), "shape": list(array.shape), "bits": bits}

    return {name: one(value) for name, value in batch.items()}


def _arrays(stored: Mapping[str, Any]) -> Batch:
    """The inverse of `_text`."""

    def one(value):
        if "fields" in value:
            return _arrays(value["fields"])
        bits = np.frombuffer(base64.b64decode(value["bits"]), np.dtype(value["dtype"]))
        return bits.reshape(value["shape"]).copy()

    return {name: one(value) for name, value in stored.items()}
