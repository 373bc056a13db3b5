"""Contrastive captioners: a pair lies close together, and its text can be told from its image."""

from collections.abc import Callable

import jax.numpy as jnp

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.losses import mean_cross_entropy
from ft_jax.core.method import Method
from ft_jax.core.outputs import real_tokens
from ft_jax.core.params import Params
from ft_jax.core.weights import shape
from ft_jax.models.model import Model, build
from ft_jax.models.networks.captioner import CaptionerConfig
from ft_jax.multimodal.clip import contrastive_rows
from ft_jax.multimodal.towers import beside, projected, unit


def _captions(batch):
    return {**batch, "paired": {name: batch[name] for name in ("input_ids", "labels", "attention_mask", "weights")}}


def _example(problem):
    wide, vocabulary = shape(problem.params["head"]["kernel"])
    config = CaptionerConfig(vocabulary, wide, wide, layers=1, heads=2, mlp_width=wide, queries=2)
    return coca(problem.apply, problem.params, build(config, problem.key), width=8, weight=0.25)


@register(
    "multimodal",
    paper="Yu et al. 2022, arXiv:2205.01917, equations 3 to 5",
    needs=("paired",),
    example=_example,
    batch=_captions,
    neutral=Neutral({"weight": 0.0}),
)
def coca(
    apply: Callable,
    params: Params,
    captioner: Model,
    width: int,
    other: str = "paired",
    weight: float = 1.0,
    *,
    caption_weight: float = 2.0,
    name: str = "multimodal.coca",
) -> Method:
    """Learns a text decoder beside the model, an image encoder, by contrast and by captions.

    The second tower is the unimodal half of the text decoder: causal, with hidden states ``t [time, width]``. The
    captioner pools the image's tokens by learned queries, gives its vector and continues ``t`` beside it. With
    ``x = unit(image vector @ projection)`` and ``y = unit(t[last] @ other_projection)`` the terms are
    ``weight · contrastive(x, y, scale)`` (as in `clip`) and
    ``weight · caption_weight · mean_t -log p(label_t | tokens ≤ t, image)``.

    The second tower's batch has ``input_ids`` whose last real token is the caption's end (the paper's [CLS]), and
    ``labels`` that are the next tokens, negative where there is none to tell.

    Args:
      apply, params, width, other, weight, name: as for `clip`; the model gives a vector a token (a patch).
      captioner: of a `ft_jax.models.networks.captioner.CaptionerConfig` as wide as both.
      caption_weight: of the captions' loss, a number in ``hyper`` (2 in the paper).

    Raises:
      KeyError: when training on a batch without `other`, or one whose captions have no labels.
      ValueError: a model that gives one vector an example; widths that don't fit.

    Example:
      >>> tower = build(CaptionerConfig(100, width=32, image_width=64), None)
      >>> coca(lambda params, batch, key: None, {}, tower, width=16)
      Method('multimodal.coca', weight=1, caption_weight=2)
    """
    config = captioner.config

    def represent(projection, outputs, batch, name):
        hidden = outputs.hidden.astype(jnp.float32)
        if hidden.ndim != 3:
            raise ValueError(f"{name} reads tokens, and a tower gives one vector an example; leave its pooling out")
        real = real_tokens(batch)
        places = jnp.arange(hidden.shape[1])
        last = jnp.full(hidden.shape[0], hidden.shape[1] - 1) if real is None else jnp.max(places * (real > 0), axis=1)
        return unit(projected(projection, jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0], name))

    def value(pair, context):
        part = pair.batch[other]
        if "labels" not in part and context.train:
            raise KeyError(f"{name} learns captions, and the batch's {other!r} has no labels; give it the next tokens")
        fields = {"image_tokens": pair.model.hidden, "text_hidden": pair.outputs.hidden}
        real = real_tokens(pair.batch)
        if real is not None and real.shape == pair.model.hidden.shape[:2]:
            fields["image_mask"] = real
        told = captioner.apply(pair.own["captioner"], fields, context.drawing(f"{name}.captions").dropout_key)
        x = unit(projected(pair.own["projection"], told.states["image"].astype(jnp.float32), name))
        found = {name: context.couple(contrastive_rows, (x, pair.y), jnp.exp(pair.own["log_scale"]), pair.counts)}
        if "labels" not in part:
            return found
        captions = context.hyper[name]["caption_weight"] * mean_cross_entropy(told, part)
        return {**found, f"{name}/captions": captions}

    return beside(
        name, apply, params, width, other, (config.width, config.width), value,
        weight=weight, represent=represent, hyper={"caption_weight": caption_weight},
        more=lambda key: {"captioner": captioner.params},
    )  # fmt: skip
