"""Several named adapters on one base: switched, mixed, or one for each example of a batch."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ft_jax.core.adapters import map_operators_with_path, owned
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.params import STACKED, Params, combine, is_matrix, map_with_path
from ft_jax.core.weights import LowRank, Weight, is_weight, materialize, matmul, shape
from ft_jax.core.weights.operator import operator
from ft_jax.transfer.lora import lora
from ft_jax.transfer.nesting import beneath

FIELD = "adapter"
"""The batch's field ``[batch]`` that says which adapter each example takes."""


@operator("owner")
class Bank(Weight):
    """``base + Σ weights[i] · scale[i] · a[i] @ b[i]``, or for each example of a batch its own ``i`` alone.

    With ``choice [batch]`` an example's rows meet only its own factors, gathered from the bank, as in Chen et al.
    2023, "Punica: Multi-Tenant LoRA Serving", arXiv:2310.18547, section 4, and Sheng et al. 2023, "S-LoRA",
    arXiv:2311.03285, section 4. The first axis of ``x`` is then the batch's;
    what no example owns, such as the virtual tokens of another method, meets the sum.
    """

    base: Any
    a: Float[Array, "adapters inputs rank"]
    b: Float[Array, "adapters rank outputs"]
    scale: Float[Array, " adapters"]
    weights: Float[Array, " adapters"]
    choice: Int[Array, " batch"] | None = None
    owner: str = ""

    # A choice is no one weight, so what needs the weight itself (DoRA's norm) goes under a bank.
    mergeable = False

    def matmul(self, x, bias=None):
        y, a, b = matmul(self.base, x, bias), self.a.astype(x.dtype), self.b.astype(x.dtype)
        if self.choice is None or x.shape[0] != self.choice.shape[0]:
            strength = (self.weights * self.scale).astype(x.dtype)
            inner = jnp.einsum("...i,nir->...nr", x, a) * strength[:, None]
            return y + jnp.einsum("...nr,nro->...o", inner, b)
        scale = self.scale[self.choice].astype(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
        inner = jnp.einsum("e...i,eir->e...r", x, a[self.choice])
        return y + scale * jnp.einsum("e...r,ero->e...o", inner, b[self.choice])

    def materialize(self):
        if self.choice is not None:
            raise ValueError(
                f"{self.owner or 'a bank'} shows every example another adapter, which is no one weight; merge it "
                "without a choice"
            )
        base = materialize(self.base)
        return base + jnp.einsum("n,nir,nro->io", self.weights * self.scale, self.a, self.b).astype(base.dtype)

    @property
    def shape(self):
        return shape(self.base)


def _two(problem) -> Method:
    """Two random adapters of different ranks, the first of which is shown."""
    adapters = {}
    for number, (adapter, rank, targets) in enumerate((("one", 2, "all-linear"), ("other", 3, "mlp"))):
        changed = lora(rank=rank, alpha=2.0, targets=targets).surgery(
            {"model": problem.params}, jax.random.fold_in(problem.key, number)
        )
        adapters[adapter] = map_operators_with_path(
            lambda path, weight: dataclasses.replace(weight, b=0.02 * jnp.ones_like(weight.b)), changed["model"]
        )
    return bank(adapters)


def _choosing(batch):
    if "labels" not in batch:
        return batch
    return {**batch, FIELD: jnp.arange(batch["labels"].shape[0], dtype=jnp.int32) % 2}


@register(
    "transfer",
    paper="Chen et al. 2023, arXiv:2310.18547, section 4; Sheng et al. 2023, arXiv:2311.03285, section 4",
    example=_two,
    needs=(FIELD,),
    batch=_choosing,
    neutral="it replaces what learns by its adapters, of which an example always meets one",
    pretrained=False,
)
def bank(adapters: Mapping[str, Params], active: str | None = None, *, name: str = "transfer.bank") -> Method:
    """Several trained low-rank adapters on one base, in one program.

    - *Batched*: a batch with the field ``adapter [batch]`` (indices in the order of `adapters`) shows every example
      its own. Each adapter then learns from its own examples alone, so many users train in one step.
    - *Switched and mixed*: without that field the update is the sum of all, with weights that are data in
      ``hyper`` under the adapters' names; ``{"transfer.bank.sentiment": 1.0}`` shows one and nothing compiles.

    Args:
      adapters: by name, the model's parameters with `LowRank` operators (of LoRA, rsLoRA, OLoRA, ...), as
        `ft_jax.models.load_adapter` and `ft_jax.core.parameters` give them. Ranks, scales and places may differ: where
        an adapter has nothing, it adds nothing.
      active: the adapter with weight 1 at the start, the others have 0; the first where None.
      name: the method's name.

    Raises:
      ValueError: fewer than one adapter, an unknown active one, an adapter without low-rank operators; when composed
        outside of a method that changes the loss; at init, an adapter of another base; in training, not one index
        an example.

    Example:
      >>> from ft_jax.transfer import lora
      >>> params = {"model": {"mlp": {"up": {"kernel": jnp.ones((4, 6))}}}}
      >>> trained = {str(i): lora(rank=i).surgery(params, jax.random.key(i))["model"] for i in (1, 2)}
      >>> kernel = bank(trained).surgery(params, jax.random.key(0))["model"]["mlp"]["up"]["kernel"]
      >>> kernel.a.shape, kernel.scale.tolist()
      ((2, 4, 2), [16.0, 8.0])
    """
    if not adapters:
        raise ValueError(f"{name} got no adapters; give it at least one")
    if active is not None and active not in adapters:
        raise ValueError(f"{name} has no adapter {active!r}; it has {', '.join(adapters)}")
    factors = {adapter: _factors(tree, adapter, name) for adapter, tree in adapters.items()}
    places = sorted({path for own in factors.values() for path in own})
    shown = active or next(iter(adapters))

    def surgery(params, key):
        met = []

        def stacked(path, weight):
            if not is_matrix(path, weight) or path not in places:
                return weight
            met.append(path)
            return beneath(weight, lambda matrix: _stacked(matrix, [own.get(path) for own in factors.values()], path))

        def _stacked(matrix, several, path):
            layers = jax.tree.leaves(matrix)[0].shape[:1] if STACKED in path else ()
            inputs, outputs = shape(matrix)[-2:]
            rank = max(own.a.shape[-1] for own in several if own is not None)
            a, b, scale = [], [], []
            for adapter, own in zip(adapters, several, strict=True):
                if own is None:
                    a.append(jnp.zeros((*layers, inputs, rank)))
                    b.append(jnp.zeros((*layers, rank, outputs)))
                    scale.append(jnp.zeros(layers))
                    continue
                if (own.a.shape[-2], own.b.shape[-1]) != (inputs, outputs):
                    raise ValueError(
                        f"{name}: adapter {adapter!r} was trained on {path} of {own.a.shape[-2]} by {own.b.shape[-1]}, "
                        f"here it is {inputs} by {outputs}; it belongs to another base"
                    )
                spare = rank - own.a.shape[-1]
                a.append(jnp.pad(own.a, ((0, 0),) * (own.a.ndim - 1) + ((0, spare),)))
                b.append(jnp.pad(own.b, ((0, 0),) * (own.b.ndim - 2) + ((0, spare), (0, 0))))
                scale.append(jnp.asarray(own.scale, jnp.float32))
            axis = len(layers)
            weights = jnp.broadcast_to(jnp.array([float(adapter == shown) for adapter in adapters]), (*layers, len(a)))
            a, b, scale = jnp.stack(a, axis), jnp.stack(b, axis), jnp.stack(scale, axis)
            return Bank(base=matrix, a=a, b=b, scale=scale, weights=weights, owner=name)

        changed = map_with_path(stacked, {"model": params["model"]}, is_leaf=is_weight)
        absent = sorted(set(places) - set(met))
        if absent:
            raise ValueError(f"{name}: the adapters change {absent[0]}, which is absent; they belong to another base")
        return {**params, **changed}

    def view(params, context):
        weights = jnp.stack([context.hyper[name][adapter] for adapter in adapters])

        def weighed(path, weight):
            return dataclasses.replace(weight, weights=jnp.broadcast_to(weights, weight.weights.shape))

        return {**params, **map_operators_with_path(weighed, {"model": params["model"]}, owner=name)}

    def prepare(state, batch, context):
        examples = next((x for field, x in batch.items() if field != FIELD and jnp.ndim(x) > 0), batch.get(FIELD))
        if FIELD in batch and jnp.shape(batch[FIELD]) != examples.shape[:1]:
            raise ValueError(
                f"{name} got batch[{FIELD!r}] of shape {jnp.shape(batch[FIELD])} for {examples.shape[0]} examples; "
                "give each one index"
            )
        return state, batch

    def forward(inner):
        def each(params, batch, context):
            if FIELD not in batch:
                return inner(params, batch, context)
            choice = jnp.asarray(batch[FIELD], jnp.int32)
            layers: dict[str, int] = {}

            def measure(path, weight):
                layers[path] = weight.weights.shape[0]
                return weight

            def chosen(path, weight):
                own = jnp.broadcast_to(choice, (layers[path], *choice.shape)) if STACKED in path else choice
                return dataclasses.replace(weight, choice=own)

            frozen = {"model": context.frozen["model"]}
            map_operators_with_path(measure, combine({"model": params["model"]}, frozen), name)
            frozen = map_operators_with_path(chosen, frozen, name)
            return inner(params, batch, context.replace(frozen={**context.frozen, **frozen}))

        return each

    return Method(
        name=name,
        hyper={adapter: float(adapter == shown) for adapter in adapters},
        surgery=surgery,
        trainable=owned(name, ("a", "b")),
        view=view,
        prepare=prepare,
        forward=forward,
    )


def _factors(tree, adapter, name) -> dict[str, LowRank]:
    found: dict[str, LowRank] = {}

    def collect(path, weight):
        if isinstance(weight, LowRank):
            if path in found:
                raise ValueError(f"{name}: adapter {adapter!r} has two low-rank updates on {path}; merge one of them")
            found[path] = weight
        return weight

    map_operators_with_path(collect, {"model": tree})
    if not found:
        raise ValueError(f"{name}: adapter {adapter!r} has no low-rank operator; give parameters with a LoRA in them")
    return found
