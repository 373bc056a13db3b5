"""From a loss, an optimizer and a composition to the pure functions of a training run."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ft_jax.core.accumulation import averaged
from ft_jax.core.batches import Batch, counted, rows, stacked, with_shares
from ft_jax.core.method import Composition, Loss, Method, compose
from ft_jax.core.optimizers import Optimizer, as_optimizer, numbers
from ft_jax.core.outputs import Outputs, means, told_by
from ft_jax.core.params import Params, digest, partition
from ft_jax.core.program import Evaluation, Events, Program
from ft_jax.core.state import Context, EvalEvent, StepEvent, TaskEvent, TrainState, UpdateEvent, direct

NOTHING = compose()


def logits(outputs: Outputs, batch: Batch) -> Any:
    """The default prediction: the outputs' logits, or None for a model without a head."""
    return None if outputs.unembedding is None else outputs.logits


def make_step(
    loss: Loss,
    optimizer: Optimizer | optax.GradientTransformation,
    method: Method | Composition = NOTHING,
    *,
    accumulate: int = 1,
    axis: str | None = None,
    predict: Callable[[Outputs, Batch], Any] = logits,
) -> Program:
    """The program of a run: pure functions to jit, vmap, pmap and shard as you like.

    ``jit_step(program.step)`` is the usual training step: compiled, with the state donated.

    Args:
      loss: ``(params, batch, context) -> (terms, outputs)``, such as `ft_jax.core.losses.supervised`.
      optimizer: `ft_jax.core.optimizers.optimizer` or any optax transformation.
      method: what to train with.
      accumulate: micro-batches whose gradients are averaged in one step; the batch must divide by it.
      axis: the name of a mapped device axis (pmap): gradients and terms are averaged over it.
      predict: ``(outputs, batch) -> predictions``, what evaluation returns and step events carry.

    Example:
      >>> import optax
      >>> from ft_jax.core import Outputs, supervised
      >>> def apply(params, batch, key):
      ...     return Outputs(hidden=batch["x"], unembedding=params["w"])
      >>> program = make_step(supervised(apply), optax.sgd(0.1))
      >>> state = program.init({"w": jnp.zeros((2, 3))}, jax.random.key(0))
      >>> state, metrics = jit_step(program.step)(state, {"x": jnp.ones((4, 2)), "labels": jnp.array([0, 1, 2, 0])})
      >>> round(float(metrics["loss"]), 4)
      1.0986
    """
    method, optimizer = compose(method), as_optimizer(optimizer)
    wrapped = method.fold("loss", loss)
    transform = method.fold("update", optimizer.transform)
    per_term = any(part.per_term for part in method)
    listens = method.inwards("after_step")

    def build(composition, loss=loss, place=None):
        if place is not None:
            stays = [part for part in method if part.name == place or part.lift is None]
            composition = compose(*(composition if part.name == place else part for part in stays))
        return make_step(loss, optimizer, composition, accumulate=accumulate, axis=axis, predict=predict)

    def init(params, key):
        surgery_key, memory_key, run_key = jax.random.split(key, 3)
        whole = {"model": params}
        for name, operate in method.inwards("surgery"):
            whole = operate(whole, jax.random.fold_in(surgery_key, digest(name)))
        trainable, frozen = partition(whole, [part.trainable for part in method if part.trainable is not None])
        for name, make in method.inwards("learned"):
            own = make(trainable, jax.random.fold_in(surgery_key, digest(name)))
            trainable, frozen = {**trainable, name: own}, {**frozen, name: jax.tree.map(lambda _: None, own)}
        memory = {
            name: remember(trainable, jax.random.fold_in(memory_key, digest(name)))
            for name, remember in method.inwards("memory")
        }
        hyper = {"optimizer": numbers(optimizer.hyper)}
        hyper |= {part.name: numbers(part.hyper) for part in method if part.hyper}
        opt_state = transform.init(trainable)
        state = TrainState(jnp.int32(0), trainable, None, opt_state, memory, hyper, run_key)
        return _own(state).replace(frozen=frozen)

    def prepared(state, batch, key, train):
        for _, prepare in method.inwards("prepare"):
            state, batch = prepare(state, batch, _context(state, method, key, train=train, axis=axis))
        return state, batch

    def shard_of(state, params, key, terms, by_term):
        """``(micro-batch, its number, coupling) -> ((terms, gradients), predictions)``, and without gradients."""

        def run(batch, number, coupling, params=params):
            place = number if axis is None else number + accumulate * jax.lax.axis_index(axis)
            context = _context(state, method, key, place, train=True, axis=axis, coupling=coupling)
            found, outputs = wrapped(params, batch, context)
            kept = predict(outputs, batch) if listens else None
            return _chosen(found, terms), (kept, told_by(outputs))

        def shard(batch, number, coupling):
            def named(params):
                return run(batch, number, coupling, params)

            if by_term:
                found, back, kept = jax.vjp(named, params, has_aux=True)
                one = lambda name: {term: (term == name) * jnp.ones_like(value) for term, value in found.items()}  # noqa: E731
                return (found, {name: back(one(name))[0] for name in found}), kept

            def total(params):
                found, kept = named(params)
                return sum(found.values(), start=jnp.float32(0)), (found, kept)

            (_, (found, kept)), gradients = jax.value_and_grad(total, has_aux=True)(params)
            return (found, gradients), kept

        return shard, run

    def differentiate(state, params, batch, key, terms=None, by_term=False, count=accumulate):
        """Terms, their gradient (by term a dict of them) and predictions, over all micro-batches and devices."""
        shard, run = shard_of(state, params, key, terms, by_term)
        (found, gradients), kept = averaged(shard, run, batch, count, axis)
        if axis is not None:
            found, gradients = jax.lax.pmean((found, gradients), axis)
        return found, gradients, kept

    def step(state, batch):
        key = jax.random.fold_in(state.key, state.step)
        state, batch = prepared(state, batch, key, train=True)
        shared = with_shares(batch, axis)
        terms, gradients, (predictions, watched) = differentiate(state, state.params, shared, key, by_term=per_term)
        apart = gradients if per_term else None
        if per_term:
            gradients = _sum(gradients.values())
        value = sum(terms.values(), start=jnp.float32(0))

        def gradient(batch=None, *, params=None, terms=None, by_term=False):
            if batch is None and params is None and (apart is not None or (not by_term and terms is None)):
                if apart is None:
                    return gradients
                found = _chosen(apart, terms)
                return found if by_term else _sum(found.values())
            params = state.params if params is None else params
            other = shared if batch is None else with_shares(batch, axis)
            count = 1 if rows(other) % accumulate else accumulate
            return differentiate(state, params, other, key, terms, by_term, count)[1]

        def value_at(params):
            found, _, _ = differentiate(state, params, shared, key)
            return sum(found.values(), start=jnp.float32(0))

        event = UpdateEvent(state.hyper, state.memory, state.step, key, shared, terms, value, gradient, value_at)
        updates, opt_state = transform.update(gradients, state.opt_state, state.params, event=event)
        metrics = {"loss": value, **terms, "gradient_norm": optax.global_norm(gradients)}
        metrics |= optimizer.report(state.hyper["optimizer"], state.step) | means(watched, axis)
        params = optax.apply_updates(state.params, updates)
        state = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
        if listens:
            if axis is not None:
                batch, predictions = jax.tree.map(
                    lambda x: jax.lax.all_gather(x, axis, tiled=True), (batch, predictions)
                )
            happened = StepEvent(batch, terms, gradients, updates, predictions, key)
            before = state.hyper
            for _, listen in listens:
                state = listen(state, happened)
            metrics |= _changed(before, state.hyper)
        for _, report in method.inwards("report"):
            metrics |= report(state)
        return state, metrics

    def evaluate(state, batch):
        state = method.fold("settle", state)
        key = jax.random.fold_in(state.key, state.step)
        _, batch = prepared(state, batch, key, train=False)
        terms, outputs = wrapped(state.params, with_shares(batch), _context(state, method, key))
        return Evaluation(terms, predict(outputs, batch), counted(batch))

    def of_task(after):
        return lambda state, batches: after(state, TaskEvent(stacked(batches), _context(state, method), loss))

    def of_evaluation(after):
        return lambda state, metrics: after(state, EvalEvent(metrics))

    program = Program(
        init=init,
        step=step,
        evaluate=evaluate,
        after_task=Events(dict(method.inwards("after_task"))).map(of_task),
        after_eval=Events(dict(method.inwards("after_eval"))).map(of_evaluation),
        parameters=lambda state: parameters(state, method),
    )
    return method.fold("lift", program, build)


def _chosen(found, terms):
    """The named terms, in the loss's order; all where none are named."""
    if terms is None:
        return dict(found)
    missing = [term for term in terms if term not in found]
    if missing:
        raise KeyError(f"the loss has no term {missing[0]!r}; it has {', '.join(found)}")
    return {term: value for term, value in found.items() if term in terms}


def _sum(trees):
    return jax.tree.map(lambda *leaves: sum(leaves[1:], start=leaves[0]), *trees)


def _changed(before, after):
    """The numbers that were set in a step, as metrics; a step that sets none has none."""
    return {
        f"hyper.{name}.{number}": value
        for name, numbers in after.items()
        for number, value in numbers.items()
        if value is not before[name][number]
    }


def _own(tree):
    """`tree` in arrays of the state's own.

    A step may donate them, so none may be the caller's or stand in the state twice; and none is weakly
    typed, which would make the second step compile again.
    """

    def one(leaf):
        leaf = jnp.asarray(leaf)
        extended = jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
        return leaf if extended else jnp.array(leaf, leaf.dtype, copy=True)

    return jax.tree.map(one, tree)


def jit_step(step: Callable) -> Callable:
    """``program.step`` compiled, its state donated except for the frozen parameters.

    The state passed in is used up and its memory reused for the one that comes back. The frozen base stays
    where it is, so a model's parameters outlive the runs that stand on them. ``outline(state, batch)`` of what comes
    back gives shapes of shapes, and the step that follows is not traced again.
    """

    def apart(state, frozen, batch):
        state, metrics = step(state.replace(frozen=frozen), batch)
        return state.replace(frozen=None), metrics

    compiled = jax.jit(apart, donate_argnums=0)

    def call(state, batch):
        frozen = state.frozen
        state, metrics = compiled(state.replace(frozen=None), frozen, batch)
        return state.replace(frozen=frozen), metrics

    def outline(state, batch):
        state, metrics = compiled.eval_shape(state.replace(frozen=None), state.frozen, batch)
        return state, metrics

    call.compilations, call.outline = compiled._cache_size, outline
    return call


def parameters(state: TrainState, method: Method | Composition) -> Params:
    """The whole parameter tree of a state as models see it: settled, joined, and through every method's view.

    ``merge(parameters(state, method)["model"])`` is what one saves. Of a lifted state take a
    `ft_jax.core.members.member` first.
    """
    method = compose(method)
    state = method.fold("settle", state)
    return _context(state, method).join(state.params)


def outputs_of(state: TrainState, method: Method | Composition, apply: Callable, batch: Batch) -> Outputs:
    """What the tuned model answers: settled, and through every method's forward pass, as an evaluation sees it.

    Args:
      state: of a program with `method`; of a lifted one take a `ft_jax.core.members.member` first.
      method: what it was trained with.
      apply: the model's, ``(params, batch, key) -> Outputs``.
      batch: of examples.

    Example:
      >>> from ft_jax.core import supervised
      >>> apply = lambda params, batch, key: Outputs(hidden=batch["x"], unembedding=params["w"])
      >>> state = make_step(supervised(apply), optax.sgd(0.1)).init({"w": jnp.eye(2)}, jax.random.key(0))
      >>> outputs_of(state, compose(), apply, {"x": jnp.ones((1, 2))}).logits.tolist()
      [[1.0, 1.0]]
    """
    method = compose(method)
    state = method.fold("settle", state)
    return _context(state, method).run(apply, state.params, batch)


def _context(state, method, key=None, shard=0, train=False, axis=None, coupling=direct) -> Context:
    key = jax.random.fold_in(state.key, state.step) if key is None else key

    def view(params, context):
        return method.fold("view", params, context)

    return Context(
        frozen=state.frozen,
        memory=state.memory,
        hyper=state.hyper,
        key=key,
        local_key=jax.random.fold_in(key, shard),
        step=state.step,
        train=train,
        axis=axis,
        view=view,
        network=lambda forward: method.fold("forward", forward),
        collects=tuple(sorted({name for part in method for name in part.collects})),
        coupling=coupling,
    )
