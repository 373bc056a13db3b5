"""Heads: what a network's hidden states are turned into, one vector an example or one a token."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.outputs import Outputs
from ft_jax.core.outputs import masked_mean as float32_mean
from ft_jax.models.architectures.naming import Tensor
from ft_jax.models.networks.parts.layers import grafts_of, unit

HEAD = "head/*"
"""The paths of a head's parameters."""

POOLINGS = ("mean", "cls", "last", "pooler")


@dataclasses.dataclass(frozen=True)
class Head:
    """One kind of head.

    Attributes:
      pooling: how tokens become one vector an example where the caller doesn't say; None for one a token.
      outputs: numbers a vector is turned into where the caller doesn't say; 0 for the vector itself.
      bias: whether it has one.
      unit: whether vectors are scaled to length 1.
    """

    pooling: str | None
    outputs: int | None
    bias: bool = True
    unit: bool = False


HEADS = {
    "classification": Head("mean", None),
    "regression": Head("mean", 1),
    "token_classification": Head(None, None),
    "embedding": Head("mean", 0, unit=True),
    "reward": Head("last", 1, bias=False),
    "value": Head(None, 1),
}
"""The kinds of heads; ``"language_model"``, the network's own logits over tokens, is no head at all."""


def with_head(model, kind: str, key: jax.Array | None, outputs: int | None = None, pooling: str | None = None):
    """`model` with another head.

    ``"classification"`` and ``"regression"`` read one pooled vector an example, ``"reward"`` the last real token's
    (a scalar without bias, as Ouyang et al. 2022, arXiv:2203.02155, section 3.5); ``"token_classification"`` and
    ``"value"`` (a scalar) read every token; ``"embedding"`` gives the pooled vector with length 1 (Reimers and
    Gurevych 2019, arXiv:1908.10084). ``"language_model"`` takes a head off again; of a decoder that had an
    unembedding of its own the token table then takes its place, so keep the model from before.

    Args:
      model: a `Model`; a vision model pools by itself.
      kind: of the head.
      key: draws the head's kernel from N(0, 0.02²), a bias is zero; None for shapes alone.
      outputs: classes, or targets of a regression; needed for the classifications alone.
      pooling: ``"mean"``, ``"cls"``, ``"last"`` or ``"pooler"``, where one vector an example is read (see `pool`).

    Raises:
      ValueError: on an unknown kind or pooling, a number of outputs or a pooling that don't fit the kind, or
        ``"pooler"`` where there is none.

    Example:
      >>> import jax
      >>> from ft_jax import models
      >>> model = with_head(models.tiny_decoder(jax.random.key(0)), "reward", jax.random.key(1))
      >>> batch = {"input_ids": jnp.array([[3, 4, 0]]), "attention_mask": jnp.array([[1, 1, 0]])}
      >>> model.apply(model.params, batch).logits.shape
      (1, 1)
    """
    if kind == "language_model":
        return _without_head(model)
    if kind not in HEADS:
        raise ValueError(f"head {kind!r} is unknown; use {', '.join(map(repr, (*HEADS, 'language_model')))}")
    head, config = HEADS[kind], model.config
    sees_images = hasattr(config, "classes")
    if sees_images and head.pooling is None:
        raise ValueError(f"head {kind!r} reads tokens and {type(config).__name__} gives one vector an image")
    outputs = _outputs(kind, head, outputs)
    pooling = _pooling(kind, head, pooling, config)
    params = {name: child for name, child in model.params.items() if name != "head"}
    if outputs:
        params["head"] = _drawn(config.width, outputs, head.bias, key)
    if sees_images:
        config, pooling = dataclasses.replace(config, classes=outputs or None), None
        kind = kind if head.unit else None
    elif hasattr(config, "tied"):
        config = dataclasses.replace(config, tied=True)
    elif getattr(config, "pooler", False) and pooling != "pooler":
        # Nothing reads it any more, so an adapter of every projection should not stand on it.
        config = dataclasses.replace(config, pooler=False)
        params = {name: child for name, child in params.items() if name != "pooler"}
    apply = dataclasses.replace(model.apply, config=config, pooling=pooling, kind=kind)
    drawn = tuple(dict.fromkeys((*model.drawn, HEAD))) if outputs else model.drawn
    return dataclasses.replace(model, config=config, params=params, apply=apply, classes=(), drawn=drawn)


def with_classifier(model, classes: int, key: jax.Array | None, pooling: str = "mean"):
    """`model` with a new head over one vector an example: ``with_head(model, "classification", ...)``.

    Args:
      model: any model with one vector a token, or a vision model (which pools by itself).
      classes: outputs of the head; 1 for a regression or a reward.
      key: draws the head's kernel from N(0, 0.02²), the bias is zero; None for shapes alone.
      pooling: ``"mean"``, ``"cls"``, ``"last"`` or ``"pooler"`` (see `pool`).

    Raises:
      ValueError: on an unknown pooling, fewer than one class, or ``"pooler"`` where there is none.

    Example:
      >>> import jax
      >>> from ft_jax import models
      >>> model = with_classifier(models.tiny_encoder(jax.random.key(0)), 3, jax.random.key(1))
      >>> model.params["head"]["kernel"].shape
      (16, 3)
    """
    return with_head(model, "classification", key, classes, pooling)


def _outputs(kind, head, outputs):
    if head.outputs is None and outputs is None:
        raise ValueError(f"head {kind!r} needs a number of classes; pass outputs=...")
    if head.outputs is not None and outputs not in (None, head.outputs) and kind != "regression":
        raise ValueError(f"head {kind!r} has {head.outputs} outputs and can't have {outputs}; leave outputs out")
    outputs = head.outputs if outputs is None else outputs
    if outputs < 1 and not head.unit:
        raise ValueError(f"classes is {outputs}; a head needs at least 1 output")
    return outputs


def _pooling(kind, head, pooling, config):
    if head.pooling is None:
        if pooling is not None:
            raise ValueError(f"head {kind!r} reads every token and pools none; leave pooling={pooling!r} out")
        return None
    pooling = pooling or head.pooling
    if pooling not in POOLINGS:
        raise ValueError(f"pooling {pooling!r} is unknown; use {', '.join(map(repr, POOLINGS))}")
    if pooling == "pooler" and not getattr(config, "pooler", False):
        raise ValueError("pooling 'pooler' needs a model with BERT's pooler; this one has none, use 'mean' or 'cls'")
    return pooling


def _drawn(width, outputs, bias, key):
    if key is None:
        head = {"kernel": jax.ShapeDtypeStruct((width, outputs), jnp.float32)}
        return head | ({"bias": jax.ShapeDtypeStruct((outputs,), jnp.float32)} if bias else {})
    head = {"kernel": 0.02 * jax.random.normal(key, (width, outputs))}
    return head | ({"bias": jnp.zeros((outputs,))} if bias else {})


def _without_head(model):
    if hasattr(model.config, "classes"):
        raise ValueError(f"{type(model.config).__name__} has no tokens to give logits over; choose another head")
    if model.apply.kind is None:
        return model
    params = {name: child for name, child in model.params.items() if name != "head"}
    apply = dataclasses.replace(model.apply, pooling=None, kind=None)
    return dataclasses.replace(model, params=params, apply=apply, classes=())


def describe(apply, leaves: Mapping[str, Any]) -> dict[str, Any] | None:
    """What config.json says under ``ft_jax_head`` of a model's head; None where the network has its own.

    Args:
      apply: the model's.
      leaves: its parameters by path, or their shapes.
    """
    if apply.kind is None:
        return None
    classes = int(leaves["head/kernel"].shape[-1]) if HEADS[apply.kind].outputs != 0 else 0
    return {"kind": apply.kind, "pooling": apply.pooling, "classes": classes}


def restore(model, described: Mapping[str, Any]):
    """The inverse of `describe`: `model` with that head, as shapes alone that a file is to fill."""
    kind = described.get("kind", "classification")
    headed = with_head(model, kind, None, described["classes"] or None, described["pooling"])
    headed = dataclasses.replace(headed, drawn=model.drawn)
    if "pooler" not in model.params or "pooler" in headed.params:
        return headed
    # The file has it, read or not.
    config = dataclasses.replace(headed.config, pooler=True)
    params = {**headed.params, "pooler": model.params["pooler"]}
    return dataclasses.replace(
        headed, config=config, params=params, apply=dataclasses.replace(headed.apply, config=config)
    )


def tensors(described: Mapping[str, Any]) -> dict[str, Tensor]:
    """Where a saved model has its head's parameters; transformers' networks without a head pass over these names."""
    kind = described.get("kind", "classification")
    if HEADS[kind].outputs == 0:
        return {}
    # A reward model's scalar is where transformers' decoders for sequence classification have it.
    name = "score" if kind == "reward" else "classifier"
    table = {"head/kernel": Tensor(f"{name}.weight", transposed=True)}
    return table | ({"head/bias": Tensor(f"{name}.bias")} if HEADS[kind].bias else {})


def published(config_json: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any] | None:
    """The head, as `describe` says it, of a checkpoint that transformers saved; None where there is none it knows.

    Known are BERT's classifier over its pooler, classifiers of every token of BERT, RoBERTa and DistilBERT, and the
    scalar of a decoder's reward model.

    Args:
      config_json: of the checkpoint.
      shapes: of its tensors.

    Example:
      >>> published({"architectures": ["LlamaForSequenceClassification"]}, {"score.weight": (1, 64)})["kind"]
      'reward'
    """
    name = (config_json.get("architectures") or [""])[0]
    classes = shapes.get("classifier.weight", (0,))[0]
    if name == "BertForSequenceClassification" and classes:
        return {"kind": "classification", "pooling": "pooler", "classes": classes}
    if name in ("BertForTokenClassification", "RobertaForTokenClassification", "DistilBertForTokenClassification"):
        return {"kind": "token_classification", "pooling": None, "classes": classes} if classes else None
    if name.endswith("ForSequenceClassification") and shapes.get("score.weight", (0,))[0] == 1:
        return {"kind": "reward", "pooling": "last", "classes": 1}
    return None


def pool(hidden: Float[Array, "batch time width"], batch, pooling: str, module=None) -> Float[Array, "batch width"]:
    """One vector an example out of one a token.

    ``"mean"`` over the real tokens, ``"cls"`` the first, ``"last"`` the last real one, ``"pooler"`` BERT's dense
    tanh layer over the first; a graft on the whole `module` may do it in its own way.
    """
    real = batch.get(getattr(module, "mask_field", "attention_mask"))
    real = jnp.ones(hidden.shape[:2], jnp.int32) if real is None else real
    for graft in () if module is None else grafts_of(module):
        pooled = graft.pool(hidden, real)
        if pooled is not None:
            return pooled
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "pooler":
        return module.pool(hidden[:, 0])
    if pooling == "mean":
        return masked_mean(hidden, real)
    last = hidden.shape[1] - 1 - jnp.argmax(real[:, ::-1] > 0, axis=1)
    return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]


def masked_mean(hidden, real):
    """Mean over the positions where `real` is 1, in float32, then in the type of `hidden`."""
    return float32_mean(hidden, real).astype(hidden.dtype)


def sentence_embedding(outputs: Outputs, attention_mask) -> Float[Array, "batch width"]:
    """Mean of the real tokens' hidden states, scaled to length 1.

    Reimers and Gurevych 2019, "Sentence-BERT", arXiv:1908.10084, section 3.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ft_jax import models
      >>> model = models.tiny_encoder(jax.random.key(0))
      >>> batch = {"input_ids": jnp.ones((2, 4), jnp.int32), "attention_mask": jnp.ones((2, 4), jnp.int32)}
      >>> sentence_embedding(model.apply(model.params, batch), batch["attention_mask"]).shape
      (2, 16)
    """
    return unit(outputs.hidden if outputs.hidden.ndim == 2 else masked_mean(outputs.hidden, attention_mask))
