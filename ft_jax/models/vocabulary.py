"""A model's tokens: more or fewer of them, and an unembedding of its own."""

import copy
import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.models.architectures import flat, nested

NOISE = 1e-9
"""What the covariance of the old rows is multiplied by for that of new ones."""

ROWS = ("embeddings/tokens", "prediction/bias")
"""Parameters with a row a token; of `COLUMNS`, the last axis is that of the tokens."""
COLUMNS = ("head/kernel", "head/bias")


def resized(model, tokens: int, key: jax.Array | None = None, *, multiple: int = 1):
    """`model` with as many rows of tokens, where a tokenizer got tokens added (or lost its last ones).

    New rows of the table, of an unembedding of its own and of its bias are drawn from a normal distribution around the
    mean of the old ones with 1e-9 of their covariance (Hewitt 2021, "Initializing New Word Embeddings for Pretrained
    Language Models"), as transformers' ``resize_token_embeddings`` does: a model then gives new tokens an average
    probability and no more. A head of classes stays. Resize before methods put adapters in.

    Args:
      model: any with a table of tokens.
      tokens: how many there shall be, ``len(tokenizer)``.
      key: draws what is around the mean; None for the mean itself.
      multiple: rows are filled up to a multiple of it.

    Raises:
      ValueError: fewer than one token, or a model without a table of tokens.

    Example:
      >>> from ft_jax import models
      >>> model = models.tiny_decoder(jax.random.key(0), vocabulary=32)
      >>> more = resized(model, 35)
      >>> more.config.vocabulary, more.params["embeddings"]["tokens"].shape, more.params["head"]["kernel"].shape
      (35, (35, 16), (16, 35))
    """
    inside = "language/" if hasattr(model.config, "language") else ""
    own = model.config.language if inside else model.config
    leaves = flat(model.params)
    if f"{inside}embeddings/tokens" not in leaves or not hasattr(own, "vocabulary"):
        raise ValueError(f"{type(model.config).__name__} has no table of tokens to resize")
    if tokens < 1 or multiple < 1:
        raise ValueError(f"resized to {tokens} tokens in multiples of {multiple}; give at least 1 of each")
    count = -(-tokens // multiple) * multiple
    chosen = {f"{inside}{path}": 0 for path in ROWS}
    if model.apply.kind is None:
        chosen |= {f"{inside}{path}": -1 for path in COLUMNS}
    for index, (path, axis) in enumerate(sorted(chosen.items())):
        if path in leaves:
            own_key = None if key is None else jax.random.fold_in(key, index)
            make = functools.partial(_rows, count=count, key=own_key, axis=axis)
            abstract = isinstance(leaves[path], jax.ShapeDtypeStruct)
            leaves[path] = jax.eval_shape(make, leaves[path]) if abstract else make(leaves[path])
    config = dataclasses.replace(own, vocabulary=count)
    config = dataclasses.replace(model.config, language=config) if inside else config
    apply = dataclasses.replace(model.apply, config=config)
    return dataclasses.replace(model, config=config, params=nested(leaves), apply=apply)


def with_tokens(model, tokens: Sequence[str], key: jax.Array | None = None, *, multiple: int = 1):
    """`model` whose tokenizer knows more tokens, with a row for each: see `resized`.

    A table that has rows to spare, as many published ones do, stays as it is.

    Args:
      model: with its tokenizer.
      tokens: texts that are to be one token each, such as ``("<think>", "</think>")``.
      key, multiple: as in `resized`.

    Raises:
      ValueError: a model without a tokenizer, no text, an empty one, one twice, or one that is a token already.
    """
    if model.tokenizer is None:
        raise ValueError("the model has no tokenizer that tokens could be added to; load it with one")
    known = model.tokenizer.get_vocab()
    for place, token in enumerate(tokens):
        why = (
            "is no text" if not isinstance(token, str) or not token.strip()
            else "is a token already" if token in known
            else "is there twice" if token in tokens[:place]
            else None
        )  # fmt: skip
        if why is not None:
            raise ValueError(f"the token {token!r} to be added {why}; leave it out")
    if not tokens:
        raise ValueError("no token is to be added; name at least one")
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.add_tokens(list(tokens))
    inside = model.config.language if hasattr(model.config, "language") else model.config
    rows = max(getattr(inside, "vocabulary", 0), 1 + max(tokenizer.get_vocab().values()))
    return dataclasses.replace(resized(model, rows, key, multiple=multiple), tokenizer=tokenizer)


def _rows(old: Float[Array, "..."], count: int, key, axis: int) -> Array:
    """`old` with `count` tokens on its axis `axis`."""
    old = jnp.moveaxis(old, axis, 0)
    more = count - old.shape[0]
    if more > 0:
        mean = old.astype(jnp.float32).mean(axis=0)
        new = jnp.broadcast_to(mean, (more, *mean.shape))
        if key is not None:
            # z @ centred / √n has the old rows' covariance.
            z = jax.random.normal(key, (more, old.shape[0]))
            new = new + (NOISE / old.shape[0]) ** 0.5 * jnp.tensordot(z, old.astype(jnp.float32) - mean, 1)
        old = jnp.concatenate([old, new.astype(old.dtype)])
    return jnp.moveaxis(old[:count], 0, axis)


def untied(model):
    """`model` with an unembedding of its own, equal to the table of tokens that it was tied to.

    What learns on the one then leaves the other alone, as in peft.

    Raises:
      ValueError: where the unembedding is no table of tokens.

    Example:
      >>> import dataclasses
      >>> from ft_jax import models
      >>> config = dataclasses.replace(models.tiny_decoder(None).config, tied=True)
      >>> untied(models.decoder(config, jax.random.key(0))).params["head"]["kernel"].shape
      (16, 32)
    """
    inside = "language/" if hasattr(model.config, "language") else ""
    own = model.config.language if inside else model.config
    if not getattr(own, "tied", False) or model.apply.kind is not None:
        raise ValueError(f"{type(own).__name__} has no unembedding that is tied to its table of tokens")
    leaves = flat(model.params)
    leaves[f"{inside}head/kernel"] = jnp.array(leaves[f"{inside}embeddings/tokens"].T)
    config = dataclasses.replace(own, tied=False)
    config = dataclasses.replace(model.config, language=config) if inside else config
    apply = dataclasses.replace(model.apply, config=config)
    return dataclasses.replace(model, config=config, params=nested(leaves), apply=apply)
