"""iCaRL: exemplars, distillation, and answers by the nearest mean of exemplars."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from ft_jax.core.batches import weighted_mean
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.outputs import Outputs, pooled
from ft_jax.core.params import Params, digest
from ft_jax.core.state import Batch
from ft_jax.core.weights import materialize, shape
from ft_jax.incremental.closed_form import UNSEEN
from ft_jax.incremental.examples import examples, no_answers
from ft_jax.incremental.herding import herd
from ft_jax.incremental.labels import class_of, labelled
from ft_jax.incremental.replay import remembered, rows_like


@register(
    "incremental",
    paper="Rebuffi et al. 2017, arXiv:1611.07725, algorithms 1 to 5",
    example=lambda problem: icarl(problem.apply, problem.params, labelled(problem.batch), capacity=64, size=4),
    neutral="it has a loss of its own in place of the task's, so no number makes it train like the step without it",
)
def icarl(
    apply: Callable,
    params: Params,
    example: Batch,
    capacity: int,
    size: int,
    weight: float = 1.0,
    *,
    term: str = "task",
    name: str = "incremental.icarl",
) -> Method:
    """Class-incremental learning with few exemplars of each class, which teach, and answer by their nearest mean.

    Of every class the memory holds ``m = ⌊capacity / classes so far⌋`` exemplars, in the order in which `herd` chose
    them by features of length 1 when the class's task ended; as classes come, each keeps its first ones. In place of
    the term `term` stands

        Σ_c H(g_c, t_c) over the batch + weight · the same over `size` exemplars drawn uniformly,

    H the cross-entropy of ``g_c = σ(logit_c)``; the target ``t_c`` is what the network said at the end of the task
    before where class c was known by then, and else whether c is the label. Once a task has ended, evaluation and
    serving answer with the class whose exemplars' mean feature is nearest, feature and mean at length 1; from the next
    step on, whose features those means are not, by the network's own head (the paper's hybrid 1) until that task ends.

    Args:
      apply: the model's, ``(params, batch, key) -> Outputs``, with a head.
      params: its parameters; their shapes matter.
      example: one batch, with ``labels``; its names, shapes and types are what is remembered.
      capacity: exemplars in all, K in the paper.
      size: exemplars drawn for a step.
      weight: of their loss. 1 weighs both parts alike, whatever their sizes; the paper trains on one set of both.
      term: of the loss, which is left out.
      name: the method's name; ``memory[name]`` is ``{"buffer", "of" [capacity], "place" [capacity], "params", "known"
        [classes], "sums" [classes, width], "counts" [classes], "means" [classes, width], "fresh"}``.

    A task comes in stacks of batches (`EvaluationSpec.memories` of them). Exemplars are algorithm 4's where it comes in
    one; else those chosen so far compete with each further stack, by the mean of the class up to there.

    Raises:
      ValueError: a model without a head, fewer exemplars than classes, a size below 1; with a method of episodes.
      KeyError: an example without labels; when a task ends, a batch that lacks a field of `example`.

    Example:
      >>> apply = lambda params, batch, key: Outputs(hidden=batch["x"], unembedding=params["w"])
      >>> batch = {"x": jnp.zeros((2, 4)), "labels": jnp.zeros(2, jnp.int32)}
      >>> method = icarl(apply, {"w": jnp.zeros((4, 3))}, batch, capacity=30, size=8)
      >>> method.memory({}, None)["buffer"]["x"].shape
      (30, 4)
    """
    outline = jax.eval_shape(lambda params, batch: apply(params, batch, None), params, dict(example))
    if outline.unembedding is None:
        raise ValueError(f"{name} knows classes by a model's head, and the model has none; give it one")
    width, classes = outline.hidden.shape[-1], shape(outline.unembedding)[-1]
    if capacity < classes or size < 1:
        raise ValueError(
            f"{name} has room for {capacity} exemplars of {classes} classes and draws {size}; give at least "
            f"{classes}, one of each, and draw at least 1"
        )
    like = rows_like(example)
    if "labels" not in like:
        raise KeyError(f"{name} keeps exemplars of classes, and the batch has no 'labels' but {', '.join(like)}")

    def memory(params, key):
        return {
            "buffer": jax.tree.map(lambda one: jnp.zeros((capacity, *one.shape[1:]), one.dtype), like),
            "of": jnp.full(capacity, -1, jnp.int32),
            "place": jnp.zeros(capacity, jnp.int32),
            "params": jax.tree.map(jnp.copy, params),
            "known": jnp.zeros(classes, bool),
            "sums": jnp.zeros((classes, width)),
            "counts": jnp.zeros(classes),
            "means": jnp.zeros((classes, width)),
            "fresh": jnp.bool_(False),
        }

    def loss(inner):
        def taught(params, batch, context):
            own = context.memory[name]

            def part(batch, context):
                terms, outputs = inner(params, batch, context)
                if outputs.unembedding is None:
                    raise ValueError(f"{name} reads logits of classes, and the model gives none; give it a head")
                targets = jax.nn.one_hot(batch["labels"], classes)
                if context.train:
                    _, before = inner(own["params"], batch, context)
                    said = jax.lax.stop_gradient(jax.nn.sigmoid(before.logits.astype(jnp.float32)))
                    targets = jnp.where(own["known"], said, targets)
                each = optax.sigmoid_binary_cross_entropy(outputs.logits.astype(jnp.float32), targets)
                return {t: v for t, v in terms.items() if t != term}, weighted_mean(each.sum(axis=-1), batch), outputs

            terms, value, outputs = part(batch, context)
            if context.train:
                filled = jnp.sum(own["of"] >= 0)
                rows = jax.random.randint(context.key_for(name), (size,), 0, jnp.maximum(filled, 1))
                aside = context.replace(local_key=jax.random.fold_in(context.local_key, digest(name)))
                _, again, _ = part(jax.tree.map(lambda x: x[rows], own["buffer"]), aside)
                value = value + context.hyper[name]["weight"] * jnp.where(filled > 0, again, 0.0)
            return {**terms, name: value}, outputs

        return taught

    def forward(inner):
        def answered(params, batch, context):
            outputs = inner(params, batch, context)
            if context.train or outputs.unembedding is None:
                return outputs
            own, hidden = context.memory[name], outputs.hidden.astype(jnp.float32)
            fresh, held = own["fresh"], jnp.any(own["means"] != 0, axis=1)
            head = materialize(outputs.unembedding).astype(jnp.float32)
            bias = jnp.zeros(classes) if outputs.bias is None else outputs.bias.astype(jnp.float32)
            # Both heads side by side, of which one is 0.
            return Outputs(
                hidden=jnp.concatenate([hidden, _unit(hidden)], axis=-1),
                unembedding=jnp.concatenate([jnp.where(fresh, 0.0, head), jnp.where(fresh, 2 * own["means"].T, 0.0)]),
                bias=jnp.where(fresh, jnp.where(held, -jnp.sum(own["means"] ** 2, axis=1), UNSEEN), bias),
                states={**outputs.states, name: outputs.hidden},
            )

        return answered

    def after_step(state, event):
        return state.remember(name, {**state.memory[name], "fresh": jnp.bool_(False)})

    def after_task(state, event):
        own = state.memory[name]
        if examples(event.batches, like, leading=1) is None:
            missing = next((field for field in like if field not in event.batches), None)
            raise KeyError(f"{name} remembers field {missing!r}, which the batches that end the task lack; add it")

        def features(batch):
            _, outputs = event.loss(state.params, batch, event.context)
            return _unit(pooled(Outputs(hidden=outputs.states[name], unembedding=None), batch))

        def seen(batch):
            rows = examples(batch, like)
            return remembered(batch, like, name), features(rows), class_of(rows)

        new, z, labels = jax.lax.map(seen, dict(event.batches))
        new, z, labels = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (new, z, labels))
        old = _in_parts(features, own["buffer"], jax.tree.leaves(event.batches)[0].shape[1])

        counted = jax.nn.one_hot(labels, classes)  # of a row that counts nothing, zeros
        sums = jnp.where(own["fresh"], own["sums"], 0.0) + counted.T @ z
        counts = jnp.where(own["fresh"], own["counts"], 0.0) + counted.sum(axis=0)
        known = own["known"] | (counts > 0)
        most = capacity // jnp.maximum(jnp.sum(known), 1)

        z, of = jnp.concatenate([old, z]), jnp.concatenate([own["of"], labels])
        rows = z.shape[0]
        places = jnp.concatenate([jnp.where(own["of"] >= 0, own["place"], rows), jnp.full(labels.shape, rows)])

        def chosen(places, one):
            label, comes, mean = one
            anew = lambda: jnp.where(of == label, herd(z, of == label, mean, most), places)  # noqa: E731
            return jax.lax.cond(comes, anew, lambda: places), None

        means = sums / jnp.maximum(counts, 1)[:, None]
        places, _ = jax.lax.scan(chosen, places, (jnp.arange(classes), counted.sum(axis=0) > 0, means))
        stays = (of >= 0) & (places < most)
        best = jnp.argsort(jnp.where(stays, of * (rows + 1) + places, classes * (rows + 1)))[:capacity]
        stays, z, of = stays[best], z[best], of[best]
        member = jax.nn.one_hot(of, classes) * stays[:, None]
        held = member.T @ z / jnp.maximum(member.sum(axis=0), 1)[:, None]
        kept = {
            "buffer": jax.tree.map(lambda a, b: jnp.concatenate([a, b.astype(a.dtype)])[best], own["buffer"], new),
            "of": jnp.where(stays, of, -1),
            "place": jnp.where(stays, places[best], 0),
            "params": jax.tree.map(jnp.copy, state.params),
        }
        told = {"known": known, "sums": sums, "counts": counts, "means": _unit(held), "fresh": jnp.bool_(True)}
        return state.remember(name, {**kept, **told})

    return Method(
        name=name,
        hyper={"weight": weight},
        memory=memory,
        forward=forward,
        loss=loss,
        drops=(term,),
        after_step=after_step,
        after_task=after_task,
        aligned=True,
        reads="examples",
        refuses=no_answers(name),
    )


def _in_parts(features: Callable, rows: Batch, size: int) -> jax.Array:
    """``features`` of many rows, `size` at a time."""
    count = jax.tree.leaves(rows)[0].shape[0]
    parts = -(-count // size)
    cut = jax.tree.map(
        lambda x: jnp.pad(x, [(0, parts * size - count), *[(0, 0)] * (x.ndim - 1)]).reshape(parts, size, *x.shape[1:]),
        rows,
    )
    found = jax.lax.map(features, cut)
    return found.reshape(parts * size, -1)[:count]


def _unit(x):
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
