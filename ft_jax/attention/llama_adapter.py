"""Zero-init gated attention to a learned prompt."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.adapters import owned, require
from ft_jax.core.catalogue import register
from ft_jax.core.grafts import Graft, attentions, graft_each
from ft_jax.core.method import Method
from ft_jax.core.params import STACKED
from ft_jax.core.weights import shape
from ft_jax.core.weights.operator import operator


@operator()
class AdaptionPrompt(Graft):
    """Attention to a prompt beside the attention to tokens, with a softmax and a gate of its own.

    Attributes:
      prompt: what the layer's key and value projections read.
      gate: strength, zero at the start.
    """

    prompt: Float[Array, "count width"]
    gate: Float[Array, ""]

    def mix(self, attention, mixed, queries, x):
        batch, time, _, width = queries.shape
        rows = self.prompt.astype(x.dtype)
        keys, values = (
            projection(rows).reshape(rows.shape[0], -1, width) for projection in (attention.key, attention.value)
        )
        norm, scale = getattr(attention, "key_norm", None), getattr(attention, "scale", None)
        keys, scale = keys if norm is None else norm(keys), width**-0.5 if scale is None else scale
        grouped = queries.reshape(batch, time, keys.shape[1], -1, width)
        scores = jnp.einsum("btghd,sgd->bghts", grouped, keys, preferred_element_type=jnp.float32) * scale
        weights = (self.gate * jax.nn.softmax(scores, axis=-1)).astype(values.dtype)
        return mixed + jnp.einsum("bghts,sgd->btghd", weights, values).reshape(mixed.shape)


@register(
    "attention",
    paper="Zhang et al. 2023, arXiv:2303.16199, section 3.2",
    example=lambda problem: llama_adapter(length=2, layers=1, also=("*/head/*",)),
    neutral="it replaces what learns by its prompts, and no strength of theirs trains what it has frozen",
)
def llama_adapter(
    length: int = 10,
    layers: int | None = None,
    also: tuple[str, ...] = (),
    *,
    name: str = "attention.llama_adapter",
) -> Method:
    """Learns a prompt for each of the topmost layers, attended to with a gate that starts at zero.

    A layer's heads give ``softmax(q kᵀ / √width) v + gate · softmax(q kₚᵀ / √width) vₚ``, where ``kₚ`` and ``vₚ``
    are the layer's own projections of ``prompt [length, width]`` (not rotated); the gates are zero, so training
    starts at the pretrained function. As peft's adaption prompts, except that a bias of the output projection
    counts once, not twice.

    Args:
      length: rows of each prompt, drawn from N(0, 1).
      layers: how many of the topmost layers; None for all.
      also: patterns of leaves that learn in full besides, such as ``("*/head/*",)``.
      name: the method's name.

    Raises:
      ValueError: a length below 1; at init, more layers than the model has.

    Example:
      >>> from ft_jax.core import make_step, supervised
      >>> from ft_jax.core.params import paths
      >>> from ft_jax.models import tiny_decoder
      >>> import optax
      >>> model = tiny_decoder(jax.random.key(0))
      >>> program = make_step(supervised(model.apply), optax.sgd(0.1), llama_adapter(4, layers=1))
      >>> paths(program.init(model.params, jax.random.key(1)).params)[0]
      'model/layers/1/attention/grafts/attention.llama_adapter/prompt'
    """
    if length < 1:
        raise ValueError(f"{name} has length {length}; give it at least 1 row")

    def draw(module, key):
        prompt = jax.random.normal(key, (length, shape(module["key"]["kernel"])[0]))
        return AdaptionPrompt(prompt, jnp.zeros((), jnp.float32))

    def surgery(params, key):
        require(params, also, name)
        places = attentions(params["model"])
        scanned = any(STACKED in f"/{path}/" for path in places)
        if layers is not None and scanned:
            raise ValueError(f"{name} has layers {layers}, but this model's layers run in one scan; give layers=None")
        if not 1 <= (layers or 1) <= len(places):
            raise ValueError(
                f"{name} has layers {layers}, and the model has {len(places)} with attention; use at most so many"
            )
        chosen = places if layers is None else places[-layers:]
        return {**params, "model": graft_each(params["model"], chosen, draw, key, name)}

    return Method(name=name, surgery=surgery, trainable=owned(name, ("prompt", "gate"), also))
