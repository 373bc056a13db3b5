"""From a loss, an optimizer and a composition to the pure functions of a training run."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ft_jax.core.losses import divisor
from ft_jax.core.method import Composition, Loss, Method, Program, compose
from ft_jax.core.optimizers import Optimizer, as_optimizer, numbers
from ft_jax.core.outputs import Outputs
from ft_jax.core.params import Params, digest, partition
from ft_jax.core.state import Batch, Context, EvalEvent, StepEvent, TaskEvent, TrainState

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

    Raises:
      ValueError: micro-batches with a loss that compares the examples of a batch.

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
    method = compose(method)
    optimizer = as_optimizer(optimizer)
    coupled = [part.name for part in method if part.couples]
    if accumulate > 1 and coupled:
        raise ValueError(
            f"{coupled[0]} compares the examples of a batch, so {accumulate} micro-batches would change its loss; "
            "set accumulate=1 and use more devices or rematerialisation for memory"
        )
    wrapped = method.fold("loss", loss)
    transform = method.fold("update", optimizer.transform)

    def init(params, key):
        surgery_key, memory_key, run_key = jax.random.split(key, 3)
        whole = {"model": params}
        for part in reversed(method.parts):
            if part.surgery is not None:
                whole = part.surgery(whole, jax.random.fold_in(surgery_key, digest(part.name)))
        trainable, frozen = partition(whole, [part.trainable for part in method if part.trainable is not None])
        memory = {
            part.name: part.memory(trainable, jax.random.fold_in(memory_key, digest(part.name)))
            for part in method
            if part.memory is not None
        }
        hyper = {"optimizer": numbers(optimizer.hyper)}
        hyper |= {part.name: numbers(part.hyper) for part in method if part.hyper}
        opt_state = transform.init(trainable)
        state = TrainState(jnp.int32(0), trainable, None, opt_state, memory, hyper, run_key)
        return _own(state).replace(frozen=frozen)

    def differentiate(state, batch, key, shard):
        shard = shard if axis is None else shard + accumulate * jax.lax.axis_index(axis)
        context = _context(state, method, key, shard, train=True, axis=axis)

        def total(params):
            terms, outputs = wrapped(params, batch, context)
            value = sum(terms.values(), start=jnp.float32(0))
            return value, (terms, predict(outputs, batch) if method.has("after_step") else None)

        (value, (terms, predictions)), gradients = jax.value_and_grad(total, has_aux=True)(state.params)
        return value, terms, predictions, gradients

    def gradients_of(state, batch, key):
        batch = _with_total_weight(batch, accumulate, axis)
        if accumulate == 1:
            result = differentiate(state, batch, key, 0)
        else:
            result = _accumulated(lambda piece, shard: differentiate(state, piece, key, shard), batch, accumulate)
        value, terms, predictions, gradients = result
        if axis is not None:
            value, terms, gradients = jax.lax.pmean((value, terms, gradients), axis)
        return value, terms, predictions, gradients

    def step(state, batch):
        key = jax.random.fold_in(state.key, state.step)
        value, terms, predictions, gradients = gradients_of(state, batch, key)
        updates, opt_state = transform.update(
            gradients,
            state.opt_state,
            state.params,
            hyper=state.hyper,
            memory=state.memory,
            step=state.step,
            gradient=lambda other: gradients_of(state, other, key)[3],
            value=value,
        )
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": value, **terms, "gradient_norm": optax.global_norm(gradients)}
        state = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
        if method.has("after_step"):
            if axis is not None:
                gather = lambda x: x if x.ndim == 0 else jax.lax.all_gather(x, axis, tiled=True)  # noqa: E731
                batch, predictions = jax.tree.map(gather, (batch, predictions))
            state = method.run("after_step", state, StepEvent(batch, terms, gradients, updates, predictions, key))
        return state, metrics

    def evaluate(state, batch):
        terms, outputs = wrapped(state.params, batch, _context(state, method))
        return terms, predict(outputs, batch)

    def after_task(state, batches):
        return method.run("after_task", state, TaskEvent(batches, _context(state, method), loss))

    def after_eval(state, metrics):
        return method.run("after_eval", state, EvalEvent(metrics))

    return method.fold("lift", Program(init, step, evaluate, after_task, after_eval))


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
    where it is, so a model's parameters outlive the runs that stand on them.
    """

    def apart(state, frozen, batch):
        state, metrics = step(state.replace(frozen=frozen), batch)
        return state.replace(frozen=None), metrics

    compiled = jax.jit(apart, donate_argnums=0)

    def call(state, batch):
        frozen = state.frozen
        state, metrics = compiled(state.replace(frozen=None), frozen, batch)
        return state.replace(frozen=frozen), metrics

    call.compilations = compiled._cache_size
    return call


def parameters(state: TrainState, method: Method | Composition) -> Params:
    """The whole parameter tree of a state as models see it: joined, and through every method's view.

    ``merge(parameters(state, method)["model"])`` is what one saves. Of a lifted state take a
    `ft_jax.core.members.member` first.
    """
    return _context(state, compose(method)).join(state.params)


def _context(state, method, key=None, shard=0, train=False, axis=None) -> Context:
    key = jax.random.fold_in(state.key, state.step) if key is None else key
    return Context(
        frozen=state.frozen,
        memory=state.memory,
        hyper=state.hyper,
        key=key,
        local_key=jax.random.fold_in(key, shard),
        step=state.step,
        train=train,
        axis=axis,
        view=lambda params, context: method.run("view", params, context),
    )


def _with_total_weight(batch: Batch, accumulate: int, axis: str | None) -> Batch:
    """`batch` with each part's mean weight per shard, see `ft_jax.core.losses.batch_weights`."""
    if accumulate == 1 and axis is None:
        return batch
    batch = {name: _with_total_weight(x, accumulate, axis) if isinstance(x, dict) else x for name, x in batch.items()}
    weights = batch.get("weights")
    # Labels that are numbers count whatever they are, one time an example.
    classes = "labels" in batch and jnp.issubdtype(batch["labels"].dtype, jnp.integer)
    if weights is None and "labels" in batch:
        weights = jnp.ones(batch["labels"].shape if classes else batch["labels"].shape[:1])
    if weights is None:
        return batch
    if classes:
        weights = jnp.where(batch["labels"] >= 0, weights, 0.0)
    total = divisor(weights) if axis is None else divisor(jax.lax.pmean(jnp.sum(weights), axis))
    return {**batch, "total_weight": total / accumulate}


def _accumulated(differentiate, batch, count: int):
    """Averages over `count` micro-batches; example ``i`` goes to micro-batch ``i % count``.

    Interleaving keeps a batch that is sharded over devices where it is: each device splits its own rows.
    """

    def split(x):
        if x.ndim == 0:
            return jnp.broadcast_to(x, (count,))
        if x.shape[0] % count:
            raise ValueError(f"a batch of {x.shape[0]} does not divide into {count} micro-batches; change one of them")
        return jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1)

    pieces = jax.tree.map(split, batch)
    shapes = jax.eval_shape(differentiate, jax.tree.map(lambda x: x[0], pieces), 0)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (shapes[0], shapes[1], shapes[3]))

    def body(sums, piece):
        value, terms, predictions, gradients = differentiate(*piece)
        return jax.tree.map(jnp.add, sums, (value, terms, gradients)), predictions

    sums, predictions = jax.lax.scan(body, zeros, (pieces, jnp.arange(count)))
    value, terms, gradients = jax.tree.map(lambda x: x / count, sums)
    whole = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), predictions)
    return value, terms, whole, gradients
