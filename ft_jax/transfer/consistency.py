"""What methods share that train a model on its own predictions for unlabelled examples."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.batches import scaled, token_axis
from ft_jax.core.losses import divergence
from ft_jax.core.outputs import real_tokens
from ft_jax.core.state import Batch, Context
from ft_jax.data.augmentation import Augmentation, augmented

Rows = Callable[[Array, Array, Any], Array]
"""``(student's logits, teacher's logits, numbers) -> loss of every position``."""


def consistency(
    apply: Callable,
    params: Any,
    batch: Batch,
    context: Context,
    rows: Rows,
    numbers: Any,
    weak: Augmentation | None,
    strong: Augmentation | None,
    name: str,
) -> Float[Array, ""]:
    """Mean over positions of ``rows(logits on strong(x), logits on weak(x), numbers)``, gradients through the first.

    The targets come from a pass without dropout and without a gradient. Padding counts nothing, nor do tokens that an
    augmentation hides. Augmentations are drawn by the step's key and each example, so micro-batches and devices agree.

    Args:
      apply: ``(params, batch, key) -> Outputs`` with a head.
      params: the tree that learns.
      batch: the unlabelled examples.
      context: as a loss sees it.
      rows: the loss of every position.
      numbers: scalars for `rows`, not differentiated.
      weak, strong: augmentations of one example; None for none. They must keep every position's place where the model
        has an output a token.
      name: of the method, for its draws.

    Raises:
      ValueError: a model without a head.
    """
    key = context.key_for(name)
    seen = augmented(weak, jax.random.fold_in(key, 0), batch)
    teacher = context.replace(train=False).run(apply, jax.lax.stop_gradient(params), seen)
    altered = augmented(strong, jax.random.fold_in(key, 1), batch)
    student = context.drawing(name).run(apply, params, altered)
    for outputs in (teacher, student):
        if outputs.unembedding is None:
            raise ValueError(f"{name} trains on the model's own predictions, but it has no head; give it one")
    for view in (seen, altered):
        real = real_tokens(view)
        if real is not None and token_axis(batch) == real.shape:
            # A token that a view hides may see nothing at all there.
            batch = scaled(batch, real.astype(jnp.float32))
    return divergence(rows, student, jax.lax.stop_gradient(teacher), batch, numbers)


def pseudo_label_loss(logits: Array, target_logits: Array, threshold: Array) -> Array:
    """``1(max p >= threshold) · cross-entropy(argmax p, logits)`` with ``p = softmax(target_logits)``, in nats.

    Example:
      >>> target = jnp.array([[2.0, 0.0], [0.1, 0.0]])
      >>> pseudo_label_loss(jnp.zeros((2, 2)), target, jnp.float32(0.8)).round(4).tolist()
      [0.6930999755859375, 0.0]
    """
    confidence = jnp.max(jax.nn.softmax(target_logits), axis=-1)
    labels = jnp.argmax(target_logits, axis=-1)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]
    return jnp.where(confidence >= threshold, -chosen, 0.0)
