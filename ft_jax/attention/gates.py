"""Learned gates per head, per layer and per token."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.adapters import owned, require
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.grafts import Graft, attentions, by_number, graft_each, map_grafts
from ft_jax.core.method import Method
from ft_jax.core.params import paths
from ft_jax.core.weights import shape
from ft_jax.core.weights.operator import operator

LOW, HIGH, SHARPNESS = -0.1, 1.1, 0.33
"""Of the hard concrete distribution: how far it is stretched beyond 0 and 1, and its temperature β."""
OPEN = 3.0
"""Log-odds at which a stretched gate is wholly open without noise."""


@operator()
class Gate(Graft):
    """What each head gives, times `gate`: one for each head or one for the layer's whole attention."""

    gate: Float[Array, " heads"] | Float[Array, ""]

    def mix(self, attention, mixed, queries, x):
        return mixed * self.gate[..., None].astype(mixed.dtype)


@operator()
class TokenGate(Graft):
    """Each token's values times ``1 + strength · (2 · sigmoid(x @ scorer + offset) - 1)``, by default with 1."""

    scorer: Float[Array, "width heads"]
    offset: Float[Array, " heads"]
    strength: Float[Array, ""] | None = None

    def source_values(self, attention, values, x):
        return values * self.gates(x)[..., None].astype(values.dtype)

    def gates(self, x: Float[Array, "batch time width"]) -> Float[Array, "batch time heads"]:
        """The gate of every token."""
        scores = x.astype(jnp.float32) @ self.scorer + self.offset
        strength = 1.0 if self.strength is None else self.strength
        return 1 + strength * (2 * jax.nn.sigmoid(scores) - 1)


EVERYTHING = ("*",)
NONE = Neutral({"strength": 0.0, "penalty": 0.0})


@register(
    "attention",
    paper="Michel, Levy and Neubig 2019, arXiv:1905.10650, section 2.3; Voita et al. 2019, arXiv:1905.09418, section 6",
    example=lambda problem: head_gates(heads=2, penalty=0.01, sampled=True, also=EVERYTHING),
    neutral=NONE,
)
def head_gates(
    apply: Callable | None = None,
    heads: int | None = None,
    penalty: float = 0.0,
    sampled: bool = False,
    also: tuple[str, ...] = (),
    *,
    name: str = "attention.head_gates",
) -> Method:
    """Learns a gate on what each attention head gives, drawn to zero where the head isn't needed.

    A layer's attention becomes ``concatenate(gate[h] · head[h]) @ output``, every gate one at the start. The term
    ``penalty · mean |gate|`` (L1) closes heads that the task can spare. With `sampled` gates are hard concrete
    (Louizos et al. 2018, arXiv:1712.01312): ``clip(1.2 · sigmoid((logit(u) + log_odds) / 0.33) - 0.1, 0, 1)`` with
    ``u ~ U(0, 1)`` drawn each step, ``clip(1.2 · sigmoid(log_odds) - 0.1, 0, 1)`` in evaluation, and the term is
    ``penalty ·`` the mean probability that a gate isn't zero (L0), so gates end at exactly 0 or 1.

    Args:
      apply: the model's, which knows its number of heads.
      heads: of a layer, where `apply` doesn't know.
      penalty: weight of the term, in ``hyper`` beside ``strength`` (1): the gate that acts is
        ``1 + strength · (gate - 1)``.
      sampled: hard concrete gates.
      also: patterns of leaves that learn besides the gates; ``("*",)`` for everything.
      name: the method's name.

    Raises:
      ValueError: where the number of heads isn't known; at init, a model without attention.

    Example:
      >>> from ft_jax.core import make_step, supervised
      >>> from ft_jax.models import tiny_decoder
      >>> import optax
      >>> model = tiny_decoder(jax.random.key(0))
      >>> program = make_step(supervised(model.apply), optax.sgd(0.1), head_gates(model.apply))
      >>> state = program.init(model.params, jax.random.key(1))
      >>> [gate.tolist() for gate in jax.tree.leaves(state.params)]
      [[1.0, 1.0], [1.0, 1.0]]
    """
    return _gates((heads_of(apply, heads, name),), penalty, sampled, also, name)


@register(
    "attention",
    paper="Michel, Levy and Neubig 2019, arXiv:1905.10650, section 2.3, with one gate for all heads of a layer",
    example=lambda problem: layer_gates(penalty=0.01, also=EVERYTHING),
    neutral=NONE,
)
def layer_gates(
    penalty: float = 0.0, sampled: bool = False, also: tuple[str, ...] = (), *, name: str = "attention.layer_gates"
) -> Method:
    """Learns one gate on the attention of each layer, drawn to zero where the layer's isn't needed.

    Args:
      penalty: weight of the gates' term, as in `head_gates`.
      sampled: hard concrete gates, as in `head_gates`.
      also: patterns of leaves that learn besides the gates; ``("*",)`` for everything.
      name: the method's name.

    Raises:
      ValueError: at init, a model without attention.

    Example:
      >>> layer_gates(penalty=0.1).hyper["penalty"]
      0.1
    """
    return _gates((), penalty, sampled, also, name)


@register(
    "attention",
    paper="Dauphin et al. 2017, arXiv:1612.08083, equation 1, on an attention's values; one gate a token and head",
    example=lambda problem: token_gates(also=EVERYTHING),
    neutral=Neutral({"strength": 0.0}),
)
def token_gates(also: tuple[str, ...] = (), *, name: str = "attention.token_gates") -> Method:
    """Learns a gate on what each token gives to those that attend to it, from the token itself.

    In every layer, a token's values are multiplied by ``1 + strength · (2 · sigmoid(x @ scorer + offset) - 1)``, one
    gate for each head of keys and values. Scorer and offset start at zero, so every gate starts at one; it ends
    between 0 (the token is left out) and 2.

    Args:
      also: patterns of leaves that learn besides the gates; ``("*",)`` for everything.
      name: the method's name; ``hyper[name]["strength"]`` is 1.

    Raises:
      ValueError: at init, a model without attention.

    Example:
      >>> token_gates().hyper
      {'strength': 1.0}
    """

    def surgery(params, key):
        require(params, also, name)

        def draw(module, key):
            width = shape(module["key"]["kernel"])[0]
            return TokenGate(jnp.zeros((width, 1)), jnp.zeros((1,)))

        return {**params, "model": graft_each(params["model"], places(params, name), draw, key, name)}

    def view(params, context):
        strength = context.hyper[name]["strength"]

        def shown(path, graft):
            return TokenGate(graft.scorer, graft.offset, jnp.broadcast_to(strength, graft.offset.shape[:-1]))

        return {**params, "model": map_grafts(shown, params["model"], name)}

    return Method(
        name=name,
        hyper={"strength": 1.0},
        surgery=surgery,
        trainable=owned(name, ("scorer", "offset"), also),
        view=view,
    )


def places(params: Any, name: str) -> list[str]:
    """The model's attention modules.

    Raises:
      ValueError: where there are none.
    """
    found = attentions(params["model"])
    if not found:
        raise ValueError(f"{name} acts on attention layers, and the model has none; use a transformer")
    return found


def heads_of(apply: Callable | None, heads: int | None, name: str) -> int:
    """How many heads a layer has: `heads`, else what the model's configuration says.

    Raises:
      ValueError: where neither says.
    """
    heads = heads or getattr(getattr(apply, "config", None), "heads", None)
    if heads is None:
        raise ValueError(f"{name} can't see how many heads a layer has; give heads=")
    return heads


def open_probability(log_odds: Array) -> Array:
    """The probability that a hard concrete gate isn't zero: ``sigmoid(log_odds - β · log(-LOW / HIGH))``."""
    return jax.nn.sigmoid(log_odds - SHARPNESS * jnp.log(-LOW / HIGH))


def _hard_concrete(log_odds, key):
    if key is not None:
        noise = jax.random.logistic(key, log_odds.shape)
        log_odds = (log_odds + noise) / SHARPNESS
    return jnp.clip(jax.nn.sigmoid(log_odds) * (HIGH - LOW) + LOW, 0.0, 1.0)


def _gates(size: tuple[int, ...], penalty: float, sampled: bool, also, name: str) -> Method:
    def surgery(params, key):
        require(params, also, name)

        def start(module, key):
            return Gate(jnp.full(size, OPEN if sampled else 1.0, jnp.float32))

        return {**params, "model": graft_each(params["model"], places(params, name), start, key, name)}

    def view(params, context):
        strength, key = context.hyper[name]["strength"], context.key_for(name) if context.train else None
        order = {path: at for at, path in enumerate(places(params, name))}

        def shown(path, graft):
            gate = graft.gate
            if sampled:
                gate = _hard_concrete(gate, None if key is None else jax.random.fold_in(key, order[path]))
            return Gate(1 + strength * (gate - 1))

        return {**params, "model": map_grafts(shown, params["model"], name)}

    def loss(inner):
        def penalised(learned, batch, context):
            terms, outputs = inner(learned, batch, context)
            gates = gates_of(learned["model"], name)
            cost = [open_probability(gate) if sampled else jnp.abs(gate) for gate in gates]
            mean = sum(map(jnp.sum, cost), start=jnp.float32(0)) / max(1, sum(gate.size for gate in gates))
            return {**terms, name: context.hyper[name]["penalty"] * mean}, outputs

        return penalised

    return Method(
        name=name,
        hyper={"penalty": penalty, "strength": 1.0},
        surgery=surgery,
        trainable=owned(name, ("gate",), also),
        view=view,
        loss=loss,
    )


def gates_of(model: Any, name: str) -> list[Array]:
    """The gates of the method `name` in a model's tree, layer by layer.

    ``parameters(state, method)["model"]`` gives those that act, ``state.params["model"]`` those that learn.

    Example:
      >>> gates_of({"layers": {"0": {"attention": {"grafts": {"mine": Gate(jnp.ones(2))}}}}}, "mine")[0].tolist()
      [1.0, 1.0]
    """
    leaves = zip(paths(model), jax.tree.leaves(model), strict=True)
    found = {path.removesuffix(f"/grafts/{name}/gate"): leaf for path, leaf in leaves if path.endswith(f"/{name}/gate")}
    return [found[path] for path in sorted(found, key=by_number)]
