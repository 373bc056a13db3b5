"""The backbone loss of images: what was hidden of them is predicted."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ft_jax.core.batches import weighted_mean
from ft_jax.core.method import Loss
from ft_jax.data.augmentation import Augmentation, augmented
from ft_jax.models.networks.vision import ViTConfig, tiles


def masked_image_modelling(apply: Callable | None, share: float = 0.6) -> Loss:
    """SimMIM: the pixels of hidden patches from those that are left, by a linear layer on the network's tokens.

    Xie et al. 2021, "SimMIM: a Simple Framework for Masked Image Modeling", arXiv:2111.09886, section 3: the mean of
    ``|x - W h - b|`` over the pixels of the hidden patches, a random set for each image and step, with ``h`` a patch's
    last hidden state. The layer ``[width, patch · patch · channels]`` is learned with the model and belongs to the
    method that takes this loss. Rows whose ``weights`` are all 0 add nothing.

    Args:
      apply: a vision transformer's, built with ``mask_token=True``.
      share: of an image's patches that are hidden, rounded to whole patches.

    Raises:
      ValueError: another network, one without a token for hidden patches, or a share that hides none or all.

    Example:
      >>> from ft_jax import models
      >>> model = models.vit(models.ViTConfig(mask_token=True), None)
      >>> masked_image_modelling(model.apply).couples
      False
    """
    config = getattr(apply, "config", None)
    if not isinstance(config, ViTConfig):
        raise ValueError(
            f"masked_image_modelling needs the apply of a vision transformer and has {type(config).__name__}'s"
        )
    if not config.mask_token:
        raise ValueError("masked_image_modelling has no token for hidden patches; build the model with mask_token=True")
    hidden = round(share * config.patches)
    if not 0 < hidden < config.patches:
        raise ValueError(
            f"masked_image_modelling has share {share}, which hides {hidden} of {config.patches} patches; hide some "
            "and leave some"
        )
    tokens = dataclasses.replace(apply, config=dataclasses.replace(config, tokens=True))
    outputs = config.patch**2 * config.image[2]

    def parameters(key):
        kernel = config.width**-0.5 * jax.random.normal(key, (config.width, outputs))
        return {"kernel": kernel, "bias": jnp.zeros(outputs)}

    def loss(params, batch, context):
        whole = context.join(params)
        if "backbone" not in whole:
            raise KeyError("masked_image_modelling has a layer of its own, which joint or dapt hold; pass it to one")
        seen = augmented(hide_patches(hidden, config.patches), context.key_for("masked_image_modelling"), batch)
        given = context.run(tokens, params, seen)
        own, wanted = whole["backbone"], tiles(batch["images"], config)
        found = given.hidden[:, config.class_token :].astype(jnp.float32) @ own["kernel"] + own["bias"]
        apart = jnp.abs(found - wanted).mean(axis=2)
        losses = (seen["patch_mask"] * apart).sum(axis=1) / hidden
        return {"backbone": weighted_mean(losses, batch)}, given

    loss.couples, loss.hyper, loss.parameters = False, {}, parameters
    return loss


def hide_patches(count: int, patches: int) -> Augmentation:
    """Marks `count` random patches of an image, of so many, as hidden: 1 in its ``patch_mask [patches]``, else 0.

    Example:
      >>> hide_patches(3, 4)(jax.random.key(0), {})["patch_mask"].sum().item()
      3.0
    """

    def change(key, example):
        return {**example, "patch_mask": (jax.random.permutation(key, patches) < count).astype(jnp.float32)}

    return change
