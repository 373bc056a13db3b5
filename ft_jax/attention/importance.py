"""How much each head matters, and leaving out those that matter least."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.attention.gates import Gate, heads_of, places
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.grafts import graft
from ft_jax.core.method import Loss, Method
from ft_jax.core.params import STACKED, Params
from ft_jax.core.state import Batch, Context

Masks = Mapping[str, Float[Array, "... heads"]]


def head_importance(
    loss: Callable[[Masks, Batch], Float[Array, ""]], masks: Masks, batches: Batch
) -> dict[str, Float[Array, "... heads"]]:
    """The expected size of the loss's derivative by each head's gate.

    Michel, Levy and Neubig 2019, arXiv:1905.10650, section 4.1: ``mean over examples of |∂ loss / ∂ gate|``, one
    example's derivative at a time.

    Args:
      loss: ``(masks, batch of one example) -> scalar``, with the masks as gates on the heads.
      masks: by module path, 1 where a head is kept.
      batches: examples, fields ``[count, batch, ...]``.

    Example:
      >>> def loss(masks, batch):
      ...     return jnp.sum(batch["x"] @ masks["layers/0/attention"])
      >>> batches = {"x": jnp.array([[[1.0, -2.0], [1.0, 2.0]]])}
      >>> head_importance(loss, {"layers/0/attention": jnp.ones(2)}, batches)["layers/0/attention"].tolist()
      [1.0, 2.0]
    """
    examples = jax.tree.map(lambda x: x.reshape(-1, 1, *x.shape[2:]), dict(batches))
    count = jax.tree.leaves(examples)[0].shape[0]

    def body(sums, example):
        gradients = jax.grad(loss)(dict(masks), example)
        return jax.tree.map(lambda total, g: total + jnp.abs(g) / count, sums, gradients), None

    return jax.lax.scan(body, jax.tree.map(jnp.zeros_like, dict(masks)), examples)[0]


def least_important(importance: Masks, masks: Masks, share: Float[Array, ""] | float) -> dict[str, Array]:
    """`masks` with 0 at the `share` of all heads that matter least; those left out stay so.

    Importances are divided by their layer's norm first (as the paper does), and the most important head of
    every layer stays.

    Args:
      importance: of `head_importance`.
      masks: what is kept now.
      share: of all heads, those left out already among them.

    Example:
      >>> masks = {"a": jnp.ones(2), "b": jnp.ones(2)}
      >>> found = least_important({"a": jnp.array([1.0, 9.0]), "b": jnp.array([2.0, 1.0])}, masks, 0.25)
      >>> [found[path].tolist() for path in ("a", "b")]
      [[0.0, 1.0], [1.0, 1.0]]
    """
    scores = {}
    for path, own in importance.items():
        unit = own / jnp.maximum(jnp.linalg.norm(own, axis=-1, keepdims=True), 1e-12)
        kept = jnp.where(masks[path] > 0, unit, -1.0)
        scores[path] = jnp.where(kept == jnp.max(kept, axis=-1, keepdims=True), jnp.inf, kept)
    flat = jnp.concatenate([score.reshape(-1) for score in scores.values()])
    rank = jnp.argsort(jnp.argsort(flat)).astype(jnp.float32)
    keep = (rank >= jnp.floor(share * flat.size + 1e-4)) | jnp.isinf(flat)
    pieces = iter(jnp.split(keep, list(_ends(scores.values()))[:-1]))
    return {path: masks[path] * next(pieces).reshape(score.shape) for path, score in scores.items()}


def _ends(arrays):
    end = 0
    for array in arrays:
        end += array.size
        yield end


@register(
    "attention",
    paper="Michel, Levy and Neubig 2019, arXiv:1905.10650, section 4",
    example=lambda problem: head_pruning(heads=2, share=0.25),
    neutral=Neutral({"share": 0.0}),
)
def head_pruning(
    apply: Callable | None = None,
    heads: int | None = None,
    share: float = 0.2,
    *,
    name: str = "attention.head_pruning",
) -> Method:
    """Leaves out the attention heads that matter least, measured when a task or the training ends.

    At each end of a task the expected ``|∂ loss / ∂ gate|`` of every head over the task's examples is measured
    (`head_importance`) and the `share` of heads that matter least is left out (`least_important`): their gates
    are 0 from then on, in what trains on and in what is saved. The masks are in ``state.memory[name]``.

    Args:
      apply: the model's, which knows its number of heads.
      heads: of a layer, where `apply` doesn't know.
      share: of all heads, in ``hyper``; raise it from task to task to prune step by step.
      name: the method's name.

    Raises:
      ValueError: a share outside [0, 1), where the number of heads isn't known; at init, a model without
        attention.

    Example:
      >>> head_pruning(heads=12, share=0.4).hyper
      {'share': 0.4}
    """
    config, heads = getattr(apply, "config", None), heads_of(apply, heads, name)
    if not 0 <= share < 1:
        raise ValueError(f"{name} has share {share}; give the share of heads to leave out, from 0 to below 1")

    def surgery(params, key):
        places(params, name)
        return params

    def memory(params, key):
        # Of frozen leaves there is only the outline here, so a scan's length is the configuration's to tell.
        found = places(params, name)
        scanned = [path for path in found if STACKED in f"/{path}/"]
        if len(scanned) > 1:
            raise ValueError(
                f"{name} can't tell how many layers each of {' and '.join(scanned)} has; use configure(scan=False)"
            )
        return {path: jnp.ones((config.layers, heads) if scanned else heads, jnp.float32) for path in found}

    def view(params, context):
        return {**params, "model": masked(params["model"], context.memory[name], name)}

    def after_task(state, event):
        found = head_importance(
            gated_loss(event.loss, state.params, event.context, name), state.memory[name], event.batches
        )
        return state.remember(name, least_important(found, state.memory[name], state.hyper[name]["share"]))

    return Method(name=name, hyper={"share": share}, surgery=surgery, memory=memory, view=view, after_task=after_task)


def masked(model: Params, masks: Masks, name: str) -> Params:
    """The model with the masks as gates on its heads."""
    for path, mask in masks.items():
        model = graft(model, path, name, Gate(mask))
    return model


def gated_loss(loss: Loss, params: Params, context: Context, name: str):
    """``(masks, batch) -> sum of the loss's terms`` with the masks of the method `name` in the place of its own."""

    def of_masks(masks, batch):
        terms, _ = loss(params, batch, context.replace(memory={**context.memory, name: masks}))
        return sum(terms.values(), start=jnp.float32(0))

    return of_masks
