"""Candidates of different shapes in one state, one of which trains at a time."""

import dataclasses
import functools
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ft_jax.core.batches import example_weights
from ft_jax.core.catalogue import register
from ft_jax.core.method import Composition, Loss, Method, compose
from ft_jax.core.params import Params, digest, nearest
from ft_jax.core.program import Evaluation, Events, Program
from ft_jax.core.state import TrainState
from ft_jax.meta.choosing.controllers import SPREAD, Controller, Mixture, as_controller, noise
from ft_jax.meta.choosing.record import labels_of

FEATURES = ("constant", "entropy of the classes", "loss at the start", "gradient norm at the start")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An architecture: methods over the run's network or another one.

    Attributes:
      method: adapters, what learns, whatever composes.
      loss: of another network, with its own ``apply``; None for the run's.
      params: of that network.
      numbers: of its own state, by ``"method.number"``: ``{"optimizer.learning_rate": 1e-4}``.
    """

    method: Method | Composition
    loss: Loss | None = None
    params: Params | None = None
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)


def _example(problem):
    learn = lambda *patterns: Method("learns", trainable=lambda path, leaf: any(p in path for p in patterns))  # noqa: E731
    return choose({"head": learn("head"), "all": compose()}, metric="loss", mode="min")


@register(
    "meta",
    paper="Auer et al. 2002, Machine Learning 47 (UCB1); Li et al. 2010, arXiv:1003.0146 (features of the task)",
    example=_example,
    neutral="it trains one of its candidates at a time, each a run without a weight; a test compares them",
)
def choose(
    candidates: Mapping[str, Candidate | Method | Composition],
    controller: Controller | str = "ucb",
    *,
    metric: str = "accuracy",
    mode: str = "max",
    features: bool = True,
    restart: bool = True,
    name: str = "meta.choose",
) -> Method:
    """Chooses among architectures while it trains: each turn's result decides who trains next.

    The state holds every candidate: its parameters, optimizer state, memories and numbers (``"candidate/method"`` in
    `hyper`), on one frozen base. A step trains the one whose index is the number ``chosen``; an evaluation measures it.
    After an evaluation its metric is the turn's result: the controller learns from it, tunes its ``exploration``, and
    chooses again. A candidate goes on from where it was. Methods beside it are part of every candidate. When a task
    ends the record stays, and with `restart` all candidates begin anew.

    At a task's first step the controller sees, for each candidate, `FEATURES`: of the first batch the entropy of its
    classes as a share of the most, and ``log(1 + x)`` of the candidate's loss and gradient norm.

    Args:
      candidates: by name; a composition, or with a network of its own a `Candidate`.
      controller: ``"ucb"``, ``"thompson"``, ``"halving"``, ``"mixture"``, or a value of their types.
      metric: of the watched evaluation set, the result of a turn.
      mode: ``"max"``, or ``"min"`` for a loss, whose reward is ``exp(-value)``.
      features: whether results are related to the task's features; else to the candidate alone.
      restart: whether candidates begin anew when a task ends.
      name: the method's name.

    Raises:
      ValueError: fewer than two candidates, a wrong mode or controller; when the state is made, where no candidate can
        be built. One that can't is left out with a warning that names it and the reason.
      KeyError: at an evaluation, for a metric that isn't measured.

    Example:
      >>> choose({"a": compose(), "b": compose()}, "thompson").hyper
      {'chosen': 0.0, 'exploration': 0.5}
    """
    acts = as_controller(controller)
    if len(candidates) < 2 or mode not in ("max", "min"):
        raise ValueError(
            f"{name} has {len(candidates)} candidates and mode {mode!r}; give at least 2, and 'max' or 'min'"
        )
    given = {label: one if isinstance(one, Candidate) else Candidate(compose(one)) for label, one in candidates.items()}
    numbers = {"chosen": 0.0, "exploration": acts.exploration}

    def lift(program: Program, build) -> Program:
        built, wrong = {}, {}
        for label, one in given.items():
            try:
                other = {} if one.loss is None else {"loss": one.loss}
                built[label] = build(compose(one.method), place=name, **other)
            except (ValueError, KeyError, TypeError) as error:
                wrong[label] = str(error)
        return _Choosing(name, given, built, wrong, acts, metric, mode, features, restart, numbers).program()

    def refuses(parts):
        other = next((part.name for part in parts if part.name != name and part.lift is not None), None)
        if other is None:
            return None
        return f"{name} and {other} both map the whole program; put {other} into the candidates, or leave it out"

    return Method(name=name, hyper=numbers, lift=lift, refuses=refuses)


@dataclasses.dataclass(frozen=True, eq=False)
class _Choosing:
    """The functions of a program over candidates."""

    name: str
    given: Mapping[str, Candidate]
    built: Mapping[str, Program]
    wrong: Mapping[str, str]
    acts: Controller
    metric: str
    mode: str
    features: bool
    restart: bool
    numbers: Mapping[str, float]

    def program(self) -> Program:
        """They as one."""
        return Program(
            init=self.init,
            step=self.step,
            evaluate=self.evaluate,
            after_task=Events({self.name: self.after_task}),
            after_eval=Events({self.name: self.after_eval}),
            parameters=self.parameters,
        )

    def init(self, params: Params, key: jax.Array) -> TrainState:
        """The state of all candidates that can be built."""
        states, wrong = {}, dict(self.wrong)
        for label, program in self.built.items():
            own = self.given[label].params
            try:
                # The same key for each, on purpose: they start and go on as their own runs of it would.
                start = program.init(params if own is None else own, jax.random.clone(key))
                states[label] = start.with_hyper(self.given[label].numbers)
            except (ValueError, KeyError, TypeError) as error:
                wrong[label] = str(error)
        for label, why in wrong.items():
            warnings.warn(f"{self.name} goes on without candidate {label!r}: {' '.join(why.split())}", stacklevel=2)
        if not states:
            raise ValueError(
                f"{self.name} can build none of its candidates; the first says: {next(iter(wrong.values()))}"
            )
        width = len(FEATURES) if self.features else 1
        first = next(iter(states.values()))
        known = jnp.zeros((len(states), width)).at[:, 0].set(1.0)
        own = {
            "record": self.acts.start(len(states), width),
            "features": known,
            "fresh": jnp.bool_(True),
            "turn": jnp.int32(0),
            "scores": jnp.zeros(len(states)),
            "expected": jnp.zeros(len(states)),
        }
        if self.restart:
            own["start"] = {label: _copied(self._changing(state)) for label, state in states.items()}
        whole = TrainState(
            first.step,
            {label: state.params for label, state in states.items()},
            {label: state.frozen for label, state in states.items()},
            {label: state.opt_state for label, state in states.items()},
            {self.name: own, **{label: state.memory for label, state in states.items()}},
            {self.name: {number: jnp.float32(value) for number, value in self.numbers.items()}},
            first.key,
        )
        hyper = {f"{label}/{owner}": its for label, state in states.items() for owner, its in state.hyper.items()}
        return self._decided(whole.replace(hyper={**whole.hyper, **hyper}))

    def labels(self, state: TrainState) -> tuple[str, ...]:
        """The candidates that a state holds, in order of their names."""
        return labels_of(state)

    def part(self, state: TrainState, label: str) -> TrainState:
        """One candidate's state, as its own run would have it."""
        begin = f"{label}/"
        hyper = {owner[len(begin) :]: its for owner, its in state.hyper.items() if owner.startswith(begin)}
        return state.replace(
            params=state.params[label],
            frozen=state.frozen[label],
            opt_state=state.opt_state[label],
            memory=state.memory[label],
            hyper=hyper,
        )

    def put(self, state: TrainState, label: str, part: TrainState) -> TrainState:
        """The state with one candidate's replaced; the number of the step stays."""
        return state.replace(
            params={**state.params, label: part.params},
            opt_state={**state.opt_state, label: part.opt_state},
            memory={**state.memory, label: part.memory},
            hyper={**state.hyper, **{f"{label}/{owner}": its for owner, its in part.hyper.items()}},
        )

    def chosen(self, state: TrainState) -> jax.Array:
        """The index of the candidate that trains."""
        most = len(self.labels(state)) - 1
        return jnp.clip(jnp.round(state.hyper[self.name]["chosen"]), 0, most).astype(jnp.int32)

    def step(self, state: TrainState, batch: Any) -> tuple[TrainState, Mapping[str, jax.Array]]:
        """A step of the candidate that is chosen; of all of them under a mixture."""
        labels, own = self.labels(state), state.memory[self.name]
        if self.features:
            seen = jax.lax.cond(own["fresh"], lambda: self.seen(state, batch), lambda: own["features"])
            anew = state.remember(self.name, {**own, "features": seen})
            state = _where(own["fresh"], self._decided(anew), anew)
        own = state.memory[self.name]
        state = state.remember(self.name, {**own, "fresh": jnp.bool_(False)})
        shapes = [jax.eval_shape(self.built[one].step, self.part(state, one), batch)[1] for one in labels]

        def trained(label, state):
            part, metrics = self.built[label].step(self.part(state, label), batch)
            return self.put(state, label, part), _united(metrics, shapes)

        if isinstance(self.acts, Mixture):
            found = []
            for label in labels:
                state, metrics = trained(label, state)
                found.append(metrics)
            own = state.memory[self.name]
            stacked = jax.tree.map(lambda *values: jnp.stack(values), *found)
            weights = jax.nn.softmax(own["record"]["gates"])
            rate = state.hyper[self.name]["exploration"]
            record = self.acts.descended(own["record"], stacked["loss"], rate)
            state = self._decided(state.remember(self.name, {**own, "record": record}))
            metrics = jax.tree.map(lambda values: weights @ values, stacked)
        else:
            state, metrics = self._switched(state, trained)
        return state.replace(step=state.step + 1), metrics

    def seen(self, state: TrainState, batch: Any) -> jax.Array:
        """`FEATURES` of each candidate on a task's first batch."""
        shared, rows = _entropy(batch), []
        for label in self.labels(state):
            _, metrics = self.built[label].step(self.part(state, label), batch)
            told = jnp.stack([jnp.abs(metrics["loss"]), metrics["gradient_norm"]])
            rows.append(jnp.concatenate([jnp.stack([jnp.float32(1), shared]), jnp.log1p(told)]))
        return jnp.stack(rows)

    def evaluate(self, state: TrainState, batch: Any) -> Evaluation:
        """The evaluation of the candidate that is chosen, or of the mixture of all."""
        labels = self.labels(state)
        shapes = [jax.eval_shape(self.built[one].evaluate, self.part(state, one), batch).terms for one in labels]

        def evaluated(label, state):
            found = self.built[label].evaluate(self.part(state, label), batch)
            return found._replace(terms=_united(found.terms, shapes))

        if not isinstance(self.acts, Mixture):
            branches = [functools.partial(evaluated, label) for label in labels]
            return jax.lax.switch(self.chosen(state), branches, state)
        weights = jax.nn.softmax(state.memory[self.name]["record"]["gates"])
        found = [evaluated(label, state) for label in labels]
        terms = jax.tree.map(lambda *values: weights @ jnp.stack(values), *(one.terms for one in found))
        likely = [jax.nn.log_softmax(one.predictions) + jnp.log(w) for one, w in zip(found, weights, strict=True)]
        return Evaluation(terms, jax.nn.logsumexp(jnp.stack(likely), axis=0), found[0].weights)

    def after_eval(self, state: TrainState, metrics: Mapping[str, jax.Array]) -> TrainState:
        """What the chosen candidate does at an evaluation; then its result is learned from and the next is chosen."""
        if self.metric not in metrics:
            raise KeyError(
                f"{self.name} chooses by {self.metric!r}, which isn't measured; the nearest are "
                f"{nearest(self.metric, metrics)}"
            )
        index = self.chosen(state)

        def act(label, state):
            return self.put(state, label, self.built[label].after_eval(self.part(state, label), metrics)), None

        state, _ = self._switched(state, act)
        value = jnp.asarray(metrics[self.metric], jnp.float32).mean()
        reward = value if self.mode == "max" else jnp.exp(-value)
        # A candidate that diverged has no reward, and is not chosen again soon.
        reward = jnp.where(jnp.isfinite(reward), reward, 0.0)
        own = state.memory[self.name]
        record = self.acts.learn(own["record"], index, own["features"], reward)
        if self.acts.tunes:
            exploration = jnp.float32(self.acts.exploration) * noise(record) / SPREAD
            numbers = {**state.hyper[self.name], "exploration": exploration}
            state = state.replace(hyper={**state.hyper, self.name: numbers})
        return self._decided(state.remember(self.name, {**own, "record": record, "turn": own["turn"] + 1}))

    def after_task(self, state: TrainState, batches: Any) -> TrainState:
        """What the chosen candidate does at a task's end; the next task is looked at anew."""

        def act(label, state):
            return self.put(state, label, self.built[label].after_task(self.part(state, label), batches)), None

        state, _ = self._switched(state, act)
        own = state.memory[self.name]
        if self.restart:
            for label, kept in _copied(own["start"]).items():
                state = self.put(state, label, self.part(state, label).replace(**kept))
        return state.remember(self.name, {**own, "fresh": jnp.bool_(True)})

    def parameters(self, state: TrainState) -> Params:
        """Those of the candidate that is chosen, of a state whose numbers are known."""
        label = self.labels(state)[int(self.chosen(state))]
        return self.built[label].parameters(self.part(state, label))

    def _switched(self, state: TrainState, act: Any) -> tuple[TrainState, Any]:
        """``act(candidate, state) -> (state, more)`` of the one that is chosen; the frozen base stays outside."""
        frozen = state.frozen

        def branch(label):
            def run(bare):
                changed, more = act(label, bare.replace(frozen=frozen))
                return changed.replace(frozen=None), more

            return run

        branches = [branch(label) for label in self.labels(state)]
        changed, more = jax.lax.switch(self.chosen(state), branches, state.replace(frozen=None))
        return changed.replace(frozen=frozen), more

    def _decided(self, state: TrainState) -> TrainState:
        own, numbers = state.memory[self.name], state.hyper[self.name]
        key = jax.random.fold_in(jax.random.fold_in(state.key, digest(self.name)), own["turn"])
        scores, expected = self.acts.scores(own["record"], own["features"], numbers["exploration"], key)
        numbers = {**numbers, "chosen": jnp.argmax(scores).astype(jnp.float32)}
        state = state.remember(self.name, {**own, "scores": scores, "expected": expected})
        return state.replace(hyper={**state.hyper, self.name: numbers})

    @staticmethod
    def _changing(state: TrainState) -> dict[str, Any]:
        return {"params": state.params, "opt_state": state.opt_state, "memory": state.memory}


def _copied(tree):
    """A tree in arrays of its own: a step may use its state's up, and no array may stand in one twice."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)


def _where(flag, new, old):
    return jax.tree.map(lambda a, b: a if a is b else jnp.where(flag, a, b), new, old)


def _united(found: Mapping[str, jax.Array], shapes) -> dict[str, jax.Array]:
    """Terms or metrics with those that only other candidates have, as 0."""
    every = {name: one for shape in shapes for name, one in shape.items()}
    return {name: found.get(name, jnp.zeros(one.shape, one.dtype)) for name, one in sorted(every.items())}


def _entropy(batch) -> jax.Array:
    """The entropy of a batch's classes as a share of the most that so many classes could have; 1 without classes."""
    labels = batch.get("labels")
    if labels is None or labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
        return jnp.float32(1)
    weights = example_weights(batch)
    same = (labels[:, None] == labels[None, :]) @ weights / jnp.maximum(jnp.sum(weights), 1.0)
    entropy = -jnp.sum(weights * jnp.log(jnp.maximum(same, 1e-9))) / jnp.maximum(jnp.sum(weights), 1.0)
    classes = jnp.sum(weights / jnp.maximum(same * jnp.sum(weights), 1e-9))
    return jnp.where(classes > 1.5, entropy / jnp.log(jnp.maximum(classes, 2.0)), 0.0)
