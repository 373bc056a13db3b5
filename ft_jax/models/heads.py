"""Heads: what a network's hidden states are turned into, one vector an example or one a token."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.outputs import Outputs
from ft_jax.core.outputs import masked_mean as float32_mean
from ft_jax.core.weights import matmul
from ft_jax.models.architectures import architecture_for, flat, nested
from ft_jax.models.architectures.naming import Between, PublishedHead, Tensor, head_tensors
from ft_jax.models.networks.parts.layers import activation, grafts_of, layer_norm, unit
from ft_jax.outside import printable

HEAD = "head/*"
"""The paths of a head's parameters."""

POOLINGS = ("mean", "cls", "last", "pooler")
PUBLISHED = "published"
"""In place of a pooling: that of transformers' class for the architecture, and its layers."""

FIELDS = {"classifier_pooling": "cls"}
"""What config.json means where it says nothing."""


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
      pooling: ``"mean"``, ``"cls"``, ``"last"`` or ``"pooler"``, where one vector an example is read (see `pool`);
        ``"published"`` for the pooling and the layers of transformers' class for this architecture and kind, such as
        ``RobertaForSequenceClassification``, which then loads what `save` writes.

    Raises:
      ValueError: on an unknown kind or pooling, a number of outputs or a pooling that don't fit the kind,
        ``"pooler"`` where there is none, or ``"published"`` where transformers has no such class.

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
        raise ValueError(f"head {printable(kind)} is unknown; use {', '.join(map(repr, (*HEADS, 'language_model')))}")
    head, config = HEADS[kind], model.config
    sees_images = hasattr(config, "classes")
    if sees_images and head.pooling is None:
        raise ValueError(f"head {printable(kind)} reads tokens and {type(config).__name__} gives one vector an image")
    outputs = _outputs(kind, head, outputs)
    if pooling == PUBLISHED and not sees_images:
        chosen = _published(kind, config)
        if chosen.pooling is not None:
            _pooling(kind, head, chosen.pooling, config)
        model, own = _given_over(model, chosen)
        headed = _headed(model, kind, outputs, chosen.pooling, chosen.between, chosen.bias, key)
        return dataclasses.replace(headed, params=nested(flat(headed.params) | own))
    if pooling is not None or head.pooling is not None:
        pooling = _pooling(kind, head, pooling, config)
    return _headed(model, kind, outputs, pooling, None, head.bias, key)


def _given_over(model, head: PublishedHead):
    """`model` without a prediction head whose tensors a classifier takes over, and these by the classifier's paths."""
    stored = {tensor.name: path for path, tensor in architecture_for(model.config).tensors(model.config).items()}
    shared = {path: stored[tensor.name] for path, tensor in head.tensors.items() if tensor.name in stored}
    if not shared or not getattr(model.config, "prediction", False):
        return model, {}
    leaves, config = flat(model.params), dataclasses.replace(model.config, prediction=False)
    rest = {name: child for name, child in model.params.items() if name != "prediction"}
    apply = dataclasses.replace(model.apply, config=config)
    bare = dataclasses.replace(model, config=config, params=rest, apply=apply)
    return bare, {path: leaves[place] for path, place in shared.items()}


def _headed(model, kind, outputs, pooling, between, bias, key):
    """`model` with a head of all these choices."""
    head, config = HEADS[kind], model.config
    sees_images = hasattr(config, "classes")
    params = {name: child for name, child in model.params.items() if name != "head"}
    if outputs:
        params["head"] = _drawn(config.width, outputs, bias, between, key)
    if sees_images:
        config, pooling = dataclasses.replace(config, classes=outputs or None), None
        kind = kind if head.unit else None
    elif hasattr(config, "tied"):
        config = dataclasses.replace(config, tied=True)
    elif getattr(config, "pooler", False) and pooling != "pooler":
        # Nothing reads it any more, so an adapter of every projection should not stand on it.
        config = dataclasses.replace(config, pooler=False)
        params = {name: child for name, child in params.items() if name != "pooler"}
    apply = dataclasses.replace(model.apply, config=config, pooling=pooling, kind=kind, between=between)
    drawn = tuple(dict.fromkeys((*model.drawn, HEAD))) if outputs else model.drawn
    return dataclasses.replace(
        model, config=config, params=params, apply=apply, classes=(), problem_type=None, drawn=drawn
    )


def with_classifier(model, classes: int, key: jax.Array | None, pooling: str = "mean"):
    """`model` with a new head over one vector an example: ``with_head(model, "classification", ...)``.

    Args:
      model: any model with one vector a token, or a vision model (which pools by itself).
      classes: outputs of the head; 1 for a regression or a reward.
      key: draws the head's kernel from N(0, 0.02²), the bias is zero; None for shapes alone.
      pooling: ``"mean"``, ``"cls"``, ``"last"``, ``"pooler"`` (see `pool`) or ``"published"`` (see `with_head`).

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
        raise ValueError(f"head {printable(kind)} needs a number of classes; pass outputs=...")
    if head.outputs is not None and outputs not in (None, head.outputs) and kind != "regression":
        raise ValueError(
            f"head {printable(kind)} has {head.outputs} outputs and can't have {outputs}; leave outputs out"
        )
    outputs = head.outputs if outputs is None else outputs
    if outputs < 1 and not head.unit:
        raise ValueError(f"classes is {outputs}; a head needs at least 1 output")
    return outputs


def _pooling(kind, head, pooling, config):
    if head.pooling is None:
        if pooling is not None:
            raise ValueError(
                f"head {printable(kind)} reads every token and pools none; leave pooling={printable(pooling)} out"
            )
        return None
    pooling = pooling or head.pooling
    if pooling not in POOLINGS:
        raise ValueError(f"pooling {printable(pooling)} is unknown; use {', '.join(map(repr, POOLINGS))}")
    if pooling == "pooler" and not getattr(config, "pooler", False):
        raise ValueError("pooling 'pooler' needs a model with BERT's pooler; this one has none, use 'mean' or 'cls'")
    return pooling


def _published(kind, config) -> PublishedHead:
    architecture = architecture_for(config)
    wanted = "classification" if kind == "regression" else kind
    chosen = next((one for one in architecture.heads(config) if one.kind == wanted), None)
    if chosen is None:
        raise ValueError(
            f"transformers has no head {printable(kind)} for {architecture.model_types[0]}; use a pooling of "
            f"{', '.join(map(repr, POOLINGS))}"
        )
    return chosen


def _drawn(width, outputs, bias, between, key):
    if key is None:
        drawn = jax.eval_shape(lambda: _drawn(width, outputs, bias, between, jax.random.key(0)))
        return jax.tree.map(lambda leaf: leaf, drawn)
    head = {"kernel": 0.02 * jax.random.normal(key, (width, outputs))}
    head |= {"bias": jnp.zeros((outputs,))} if bias else {}
    if between is not None:
        head["dense"] = {"kernel": 0.02 * jax.random.normal(jax.random.fold_in(key, 1), (width, width))}
        head["dense"] |= {"bias": jnp.zeros((width,))} if between.bias else {}
        if between.epsilon is not None:
            head["norm"] = {"scale": jnp.ones((width,))} | ({"bias": jnp.zeros((width,))} if between.norm_bias else {})
    return head


def through(
    between: Between | None, head: Mapping[str, Any], x: Float[Array, "... width"]
) -> Float[Array, "... width"]:
    """What a head's outputs are made of: `x`, or what the layer between makes of it."""
    if between is None:
        return x
    x = activation(between.activation)(matmul(head["dense"]["kernel"], x, head["dense"].get("bias")))
    if between.epsilon is None:
        return x
    return layer_norm(x, head["norm"]["scale"], head["norm"].get("bias"), between.epsilon)


def _without_head(model):
    if hasattr(model.config, "classes"):
        raise ValueError(f"{type(model.config).__name__} has no tokens to give logits over; choose another head")
    if model.apply.kind is None:
        return model
    params = {name: child for name, child in model.params.items() if name != "head"}
    apply = dataclasses.replace(model.apply, pooling=None, kind=None, between=None)
    return dataclasses.replace(model, params=params, apply=apply, classes=(), problem_type=None)


def describe(apply, leaves: Mapping[str, Any]) -> dict[str, Any] | None:
    """What config.json says under ``ft_jax_head`` of a model's head; None where the network has its own.

    Args:
      apply: the model's.
      leaves: its parameters by path, or their shapes.
    """
    if apply.kind is None:
        return None
    classes = int(leaves["head/kernel"].shape[-1]) if HEADS[apply.kind].outputs != 0 else 0
    described = {"kind": apply.kind, "pooling": apply.pooling, "classes": classes}
    if classes and ("head/bias" in leaves) != HEADS[apply.kind].bias:
        described["bias"] = "head/bias" in leaves
    return described | ({} if apply.between is None else {"between": dataclasses.asdict(apply.between)})


def restore(model, described: Mapping[str, Any]):
    """The inverse of `describe`: `model` with that head, as shapes alone that a file is to fill."""
    kind = described.get("kind", "classification")
    pooling = None if described["pooling"] is None else _pooling(kind, HEADS[kind], described["pooling"], model.config)
    bias, between = described.get("bias", HEADS[kind].bias), _between(described)
    headed = _headed(model, kind, described["classes"], pooling, between, bias, None)
    headed = dataclasses.replace(headed, drawn=model.drawn)
    if "pooler" not in model.params or "pooler" in headed.params:
        return headed
    # The file has it, read or not.
    config = dataclasses.replace(headed.config, pooler=True)
    params = {**headed.params, "pooler": model.params["pooler"]}
    return dataclasses.replace(
        headed, config=config, params=params, apply=dataclasses.replace(headed.apply, config=config)
    )


def _between(described) -> Between | None:
    return Between(**described["between"]) if described.get("between") else None


def class_of(described: Mapping[str, Any], config: Any) -> PublishedHead | None:
    """The head of transformers that computes what is described, as `describe` says it; None where it has none.

    Example:
      >>> from ft_jax import models
      >>> config = models.tiny_decoder(None).config
      >>> class_of({"kind": "reward", "pooling": "last", "classes": 1}, config).class_name
      'LlamaForSequenceClassification'
    """
    kind = described.get("kind", "classification")
    wanted = "classification" if kind == "regression" else kind
    bias = described.get("bias", HEADS[kind].bias)
    for head in architecture_for(config).heads(config):
        alike = (head.kind, head.pooling, head.between, head.bias)
        if alike == (wanted, described["pooling"], _between(described), bias):
            return head
    return None


def tensors(described: Mapping[str, Any], config: Any, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """Where a saved model has its head's parameters; transformers' networks without a head pass over these names.

    Args:
      described: as `describe` says it.
      config: of the network.
      names: of the tensors in a file that is read; None to write one.
    """
    kind = described.get("kind", "classification")
    if HEADS[kind].outputs == 0:
        return {}
    head = class_of(described, config)
    if head is not None and (names is None or all(tensor.name in names for tensor in head.tensors.values())):
        return dict(head.tensors)
    bias, between = described.get("bias", HEADS[kind].bias), _between(described)
    name = "score" if kind == "reward" else "classifier"
    return head_tensors(name, bias, f"{name}_dense", f"{name}_norm", between)


def published(
    config_json: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], known: Iterable[PublishedHead]
) -> dict[str, Any] | None:
    """The head, as `describe` says it, of a checkpoint that transformers saved; None where there is none it knows.

    Args:
      config_json: of the checkpoint.
      shapes: of its tensors.
      known: the heads of its architecture.

    Example:
      >>> from ft_jax import models
      >>> known = architecture_for(models.tiny_decoder(None).config).heads(None)
      >>> published({"architectures": ["LlamaForSequenceClassification"]}, {"score.weight": (1, 64)}, known)["kind"]
      'reward'
    """
    name, known = (config_json.get("architectures") or [""])[0], tuple(known)
    for head in known:
        told = all(config_json.get(field, FIELDS[field]) == value for field, value in head.fields.items())
        if head.class_name != name or not told or any(one.name not in shapes for one in head.tensors.values()):
            continue
        kind, classes = head.kind, shapes[head.tensors["head/kernel"].name][0]
        if kind == "classification" and config_json.get("problem_type") == "regression":
            kind = "regression"
        elif kind == "classification" and classes == 1:
            kind = "reward" if any(one.kind == "reward" for one in known) else "regression"
        described = {"kind": kind, "pooling": head.pooling, "classes": classes}
        described |= {"bias": head.bias} if head.bias != HEADS[kind].bias else {}
        return described | ({} if head.between is None else {"between": dataclasses.asdict(head.between)})
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
