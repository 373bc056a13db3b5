"""Virtual tokens before the text: rows that learn by themselves, or that a small network makes."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.attention.prefix import linear
from ft_jax.core.adapters import owned, require
from ft_jax.core.catalogue import register
from ft_jax.core.grafts import Graft, graft
from ft_jax.core.method import Method
from ft_jax.core.weights import embed, matmul, shape
from ft_jax.core.weights.operator import operator


class VirtualTokens(Graft):
    """Rows in the place of token embeddings, before the real ones."""

    tokens: Float[Array, "count width"]
    always: bool

    def prepend(self, embedded):
        rows = self.tokens.astype(embedded.dtype)
        return jnp.broadcast_to(rows, (embedded.shape[0], *rows.shape))


@operator("always")
class Prompt(VirtualTokens):
    """Virtual tokens that learn by themselves."""

    tokens: Float[Array, "count width"]
    always: bool = False


@operator("always")
class EncodedPrompt(VirtualTokens):
    """Virtual tokens that a prompt encoder made."""

    tokens: Float[Array, "count width"]
    always: bool = False


@register(
    "attention",
    paper="Lester, Al-Rfou and Constant 2021, arXiv:2104.08691, section 2",
    example=lambda problem: prompt_tuning(length=2, also=("*/head/*",)),
    neutral="it replaces what learns by its prompt, which every token sees from the first step",
    pretrained=False,
)
def prompt_tuning(
    length: int = 20,
    start: str | Sequence[int] = "rows",
    also: tuple[str, ...] = (),
    *,
    always: bool = False,
    name: str = "attention.prompt_tuning",
) -> Method:
    """Learns the embeddings of virtual tokens before the text; the model stays frozen.

    The model reads ``[prompt; embeddings of the tokens]`` with ``prompt [length, width]`` the only thing that
    learns. Virtual tokens are left out of the results.

    Args:
      length: virtual tokens.
      start: ``"rows"`` draws rows of the token table (the paper's sampled vocabulary, better than noise),
        ``"random"`` draws from N(0, 1), as peft does by default; token ids take these tokens' rows, repeated to
        `length`.
      also: patterns of leaves that learn in full besides, such as ``("*/head/*",)``.
      always: whether the virtual tokens stay in sight of layers with a sliding window, see
        `ft_jax.attention.prefix_tuning`.
      name: the method's name.

    Raises:
      ValueError: a length below 1, another start, ids outside the table; a model without token embeddings.

    Example:
      >>> from ft_jax.core import make_step, supervised
      >>> from ft_jax.models import tiny_decoder
      >>> import optax
      >>> model = tiny_decoder(jax.random.key(0))
      >>> program = make_step(supervised(model.apply), optax.sgd(0.1), prompt_tuning(3, start=(7, 8)))
      >>> state = program.init(model.params, jax.random.key(1))
      >>> prompt = state.params["model"]["embeddings"]["grafts"]["attention.prompt_tuning"].tokens
      >>> bool(jnp.array_equal(prompt, model.params["embeddings"]["tokens"][jnp.array([7, 8, 7])]))
      True
    """
    if length < 1:
        raise ValueError(f"{name} has length {length}; give it at least 1 virtual token")
    ids = None if isinstance(start, str) else tuple(start)
    if start not in ("rows", "random") if ids is None else not ids:
        raise ValueError(f"{name} has start {start!r}; use 'rows', 'random' or token ids")

    def surgery(params, key):
        require(params, also, name)
        table = token_table(params["model"], name)
        rows, width = shape(table)
        if ids is not None and not all(0 <= token < rows for token in ids):
            raise ValueError(
                f"{name} starts at token {max(ids)}, but the table has {rows} rows; give ids of its tokens"
            )
        if ids is None and start == "random":
            prompt = jax.random.normal(key, (length, width))
        else:
            chosen = jnp.resize(jnp.array(ids), length) if ids else jax.random.randint(key, (length,), 0, rows)
            prompt = embed(table, chosen).astype(jnp.float32)
        return {**params, "model": graft(params["model"], "embeddings", name, Prompt(prompt, always))}

    return Method(name=name, surgery=surgery, trainable=owned(name, ("tokens",), also))


@register(
    "attention",
    paper="Liu et al. 2021, arXiv:2103.10385, section 3.2",
    example=lambda problem: p_tuning(length=2, hidden=4, also=("*/head/*",)),
    neutral="it replaces what learns by its prompt, which every token sees from the first step",
    pretrained=False,
)
def p_tuning(
    length: int = 20,
    hidden: int | None = None,
    encoder: str = "mlp",
    also: tuple[str, ...] = (),
    *,
    always: bool = False,
    name: str = "attention.p_tuning",
) -> Method:
    """Learns virtual tokens before the text through a prompt encoder; the model stays frozen.

    The prompt is ``encoder(embedding)``: with ``"mlp"`` three layers ``relu, relu, linear`` on each row, with
    ``"lstm"`` (the paper's) two bidirectional LSTM layers along the prompt and two layers ``relu, linear``. The
    encoder ties the virtual tokens together while they learn, and is gone once trained.

    Args:
      length: virtual tokens.
      hidden: width inside the encoder, by default the model's.
      encoder: ``"mlp"`` or ``"lstm"``.
      also: patterns of leaves that learn in full besides, such as ``("*/head/*",)``.
      always: whether the virtual tokens stay in sight of layers with a sliding window, see
        `ft_jax.attention.prefix_tuning`.
      name: the method's name.

    Raises:
      ValueError: a length or width below 1, another encoder; a model without token embeddings.

    Example:
      >>> p_tuning(length=4, encoder="lstm").name
      'attention.p_tuning'
    """
    for what, number in (("length", length), ("hidden", hidden)):
        if number is not None and number < 1:
            raise ValueError(f"{name} has {what} {number}; give it at least 1")
    if encoder not in ("mlp", "lstm"):
        raise ValueError(f"{name} has encoder {encoder!r}; use 'mlp' or 'lstm'")

    def surgery(params, key):
        require(params, also, name)
        width = shape(token_table(params["model"], name))[1]
        keys = jax.random.split(key, 3)
        inner = hidden or width
        own = {"embedding": jax.random.normal(keys[0], (length, width))}
        if encoder == "lstm":
            own["lstm"] = _lstm(keys[1], width, inner)
            sizes = (2 * inner, 2 * inner, width)
        else:
            sizes = (width, inner, inner, width)
        layers = zip(jax.random.split(keys[2], len(sizes) - 1), sizes[:-1], sizes[1:], strict=True)
        own["mlp"] = {str(at): linear(key, inputs, outputs) for at, (key, inputs, outputs) in enumerate(layers)}
        return {**params, name: own}

    def view(params, context):
        own = params[name]
        rows = own["embedding"]
        if "lstm" in own:
            for layer in ("0", "1"):
                rows = jnp.concatenate([_run(own["lstm"][layer][way], rows, way) for way in WAYS], axis=1)
        for at in sorted(own["mlp"]):
            rows = matmul(own["mlp"][at]["kernel"], rows, own["mlp"][at]["bias"])
            rows = rows if int(at) == len(own["mlp"]) - 1 else jax.nn.relu(rows)
        return {**params, "model": graft(params["model"], "embeddings", name, EncodedPrompt(rows, always))}

    return Method(name=name, surgery=surgery, trainable=owned(name, (), also), view=view)


def token_table(model: Mapping[str, Any], name: str):
    """The table of token embeddings.

    Raises:
      ValueError: where there is none.
    """
    if "tokens" not in model.get("embeddings", {}):
        raise ValueError(
            f"{name} puts virtual tokens before the text, and the model has no token table; use a text model"
        )
    return model["embeddings"]["tokens"]


WAYS = ("forward", "backward")


def _lstm(key, width: int, hidden: int):
    """Two bidirectional layers drawn as torch's ``LSTM``: everything from ``U(-1/√hidden, 1/√hidden)``."""
    bound = hidden**-0.5

    def one(key, inputs):
        shapes = {"input": (inputs, 4 * hidden), "recurrent": (hidden, 4 * hidden)}
        shapes |= {"input_bias": (4 * hidden,), "recurrent_bias": (4 * hidden,)}
        keys = jax.random.split(key, len(shapes))
        return {
            field: jax.random.uniform(own, size, jnp.float32, -bound, bound)
            for own, (field, size) in zip(keys, shapes.items(), strict=True)
        }

    keys = jax.random.split(key, 4).reshape(2, 2)
    return {
        str(layer): {way: one(keys[layer, at], inputs) for at, way in enumerate(WAYS)}
        for layer, inputs in enumerate((width, 2 * hidden))
    }


def _run(cell, rows, way: str):
    """One direction of a layer: ``c ← σ(f) · c + σ(i) · tanh(g)``, ``h ← σ(o) · tanh(c)``, gates in torch's order."""

    def step(carry, row):
        h, c = carry
        gates = row @ cell["input"] + cell["input_bias"] + h @ cell["recurrent"] + cell["recurrent_bias"]
        enters, stays, new, out = jnp.split(gates, 4)
        c = jax.nn.sigmoid(stays) * c + jax.nn.sigmoid(enters) * jnp.tanh(new)
        h = jax.nn.sigmoid(out) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros(cell["recurrent"].shape[0])
    return jax.lax.scan(step, (zero, zero), rows, reverse=way == "backward")[1]
