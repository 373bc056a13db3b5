"""Losses and classifiers of models that hold both towers, such as a loaded CLIP or SigLIP."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ft_jax.core.batches import shares
from ft_jax.core.method import Loss
from ft_jax.core.outputs import Outputs
from ft_jax.core.params import Params
from ft_jax.core.state import Batch, Ungathered
from ft_jax.multimodal.clip import contrastive_rows
from ft_jax.multimodal.siglip import sigmoid_ring
from ft_jax.multimodal.towers import unit


def pairs(apply: Callable, kind: Literal["softmax", "sigmoid"] = "softmax", term: str = "task") -> Loss:
    """The contrastive loss of a model with both towers, over all devices and micro-batches.

    CLIP's (see `ft_jax.multimodal.clip`) or SigLIP's (see `siglip`), with the model's own ``log_scale`` and
    ``logit_bias``. Fine-tuning a CLIP by it on captions made of the labels, "a photo of a cat", is FLYP (Goyal et al.
    2022, arXiv:2212.00638); with `transfer.lora` it is LoRA on a CLIP, with ``lit("model/vision/*")`` LiT.
    `temperature` holds the scale as CLIP does.

    Args:
      apply: of a `ft_jax.models.Dual`, ``(params, batch, key) -> Outputs``; the batch has ``images`` and
        ``input_ids``, pair by pair.
      kind: which loss.
      term: the name of the loss's only term.

    Raises:
      KeyError: the batch lacks one of the sides.
      ValueError: another kind.

    Example:
      >>> from ft_jax.core import make_step
      >>> import optax
      >>> program = make_step(pairs(lambda params, batch, key: None), optax.sgd(0.1))
    """
    if kind not in ("softmax", "sigmoid"):
        raise ValueError(f"kind is {kind!r}; use 'softmax' (CLIP) or 'sigmoid' (SigLIP)")

    def loss(params, batch, context):
        outputs = context.run(apply, params, batch)
        lacks = [side for side in ("image", "text") if f"{side}_features" not in outputs.states]
        if lacks:
            raise KeyError(
                "a contrastive loss needs images and input_ids, pair by pair, and the batch has one side alone"
            )
        x, y = (unit(outputs.states[f"{side}_features"].astype(jnp.float32)) for side in ("image", "text"))
        model = context.join(params)["model"]
        counts = shares({"example_share": batch["example_share"]} if "example_share" in batch else batch, x.shape[:1])
        scale = jnp.exp(model["log_scale"])
        if kind == "sigmoid":
            value = context.couple(Ungathered(sigmoid_ring), (x, y), (scale, model["logit_bias"]), counts)
        else:
            value = context.couple(contrastive_rows, (x, y), scale, counts)
        return {term: value}, outputs

    return loss


def zero_shot(
    apply: Callable, prompts: Int[Array, "classes time"] | Sequence[Any] | np.ndarray, mask: Any = None
) -> Callable:
    """A classifier of images whose head is made of the classes' prompts by the text tower: ``apply`` for any loss.

    ``logits_c = exp(log_scale) · unit(image) · unit(mean_k unit(text(prompt_ck))) + logit_bias``; the mean over a
    class's prompts is CLIP's ensemble (Radford et al. 2021, arXiv:2103.00020, section 3.1.4). Prompts go through the
    text tower each time, so everything may learn: with ``supervised(zero_shot(...))`` it is trained as a classifier,
    by adapters, `coop`, `clip_adapter`, or in full.

    Args:
      apply: of a `ft_jax.models.Dual`.
      prompts: token ids ``[classes, time]``, or ``[classes, prompts, time]`` for an ensemble.
      mask: ``attention_mask`` of the same shape, where there is padding that the tower would see.

    Returns:
      ``(params, batch, key) -> Outputs``, of the batch's ``images``.

    Raises:
      ValueError: prompts of another shape.

    Example:
      >>> classify = zero_shot(lambda params, batch, key: None, np.zeros((10, 4), int))
    """
    prompts = np.asarray(prompts)
    if prompts.ndim not in (2, 3) or not prompts.size:
        raise ValueError(f"prompts has shape {prompts.shape}; give [classes, time] or [classes, prompts, time]")
    prompts = prompts[:, None] if prompts.ndim == 2 else prompts
    classes, several, time = prompts.shape
    texts = {"input_ids": prompts.reshape(-1, time).astype(np.int32)}
    if mask is not None:
        texts["attention_mask"] = np.asarray(mask).reshape(-1, time).astype(np.int32)

    def classify(params: Params, batch: Batch, key: jax.Array | None = None) -> Outputs:
        keys = (None, None) if key is None else jax.random.split(key)
        seen = apply(params, {"images": batch["images"]}, keys[0])
        read = apply(params, {name: jnp.asarray(field) for name, field in texts.items()}, keys[1])
        head = unit(jnp.mean(unit(read.hidden.astype(jnp.float32)).reshape(classes, several, -1), axis=1))
        image = unit(seen.hidden.astype(jnp.float32))
        bias = params.get("logit_bias")
        bias = None if bias is None else jnp.broadcast_to(bias, (classes,))
        return Outputs(jnp.exp(params["log_scale"]) * image, head.T, bias, seen.states)

    return classify


def similarities(x: Float[Array, "rows width"], y: Float[Array, "columns width"]) -> Float[Array, "rows columns"]:
    """Cosine similarities of embeddings.

    Example:
      >>> similarities(jnp.eye(2), 3 * jnp.eye(2)).tolist()
      [[1.0, 0.0], [0.0, 1.0]]
    """
    return unit(x) @ unit(y).T
