"""The one adapter, of a run that has several or writes them, that an example meets: as a LoRA to export."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax.core import Outputs
from ft_jax.core.step import outputs_of
from ft_jax.core.weights import LowRank
from ft_jax.outside import listed, printable
from ft_jax.training.serving.export import NotExpressible, agree, probe, told
from ft_jax.training.serving.kept import Kept
from ft_jax.transfer.bank import Bank


def met(kept: Kept, fields: Mapping[str, Any]) -> Kept:
    """The run's model under the adapter that an example with `fields` meets, an ordinary LoRA in the adapter's place.

    Args:
      kept: of `load_run`; its methods are a `transfer.bank` or a `transfer.hypernetwork`.
      fields: what they read of an example: ``{"adapter": 1}``, ``{"task": 3}`` or ``{"task_embedding": [...]}``.

    Raises:
      ValueError: the run's methods read no such field, an adapter or a task that is not there, an embedding of another
        width; the model answers otherwise than through the adapter alone.
    """
    unknown = [name for name in fields if name not in kept.fields]
    if unknown:
        raise ValueError(
            f"no method of {kept.run} reads {printable(unknown[0])} of an example, they read {listed(kept.fields)}; "
            "give what they read, or nothing where the run has one adapter"
        )
    wrapping, found = kept.wrapping, []
    assert wrapping is not None  # It reads fields.
    if wrapping.fused:
        kept.alone("an export of one adapter")  # Says why there is no such thing.
    batch = {name: x[:1] for name, x in probe(kept.model).items()}
    batch |= {name: jnp.asarray(value)[None] for name, value in fields.items()}

    def apply(params: Any, batch: Any, key: Any = None) -> Outputs:
        found.append(params)
        return kept.model.apply(params, batch, key)

    answered = outputs_of(wrapping.state, wrapping.method, apply, batch)
    several = [op for op in jax.tree.leaves(found[-1], is_leaf=_chosen) if _chosen(op)]
    for name, count in {(op.owner, op.a.shape[op.choice.ndim - 1]) for op in several}:
        for number in {int(number) for op in several for number in np.unique(op.choice)}:
            if not 0 <= number < count:
                raise ValueError(f"{name} has {count} adapters and no number {number}; give 0 to {count - 1}")
    if not all(bool(jnp.isfinite(factor).all()) for op in several for factor in (op.a, op.b)):
        raise ValueError(f"the adapter of {_told(fields)} is not finite; is it past the end of the run's table?")
    model = dataclasses.replace(kept.model, params=jax.tree.map(_one, found[-1], is_leaf=_chosen))
    if not several or not agree(told(answered), told(model.apply(model.params, batch))):
        names = ", ".join(wrapping.method.names)
        raise NotExpressible(
            f"an example with {_told(fields)} is answered through {names} otherwise than by the model with one "
            "low-rank adapter, so there is none to export; ft-jax predict, evaluate and generate answer as the run did"
        )
    return dataclasses.replace(kept, model=model, wrapping=None)


def _told(fields: Mapping[str, Any]) -> str:
    return listed(f"{name} {printable(np.asarray(value).tolist())}" for name, value in fields.items())


def _chosen(weight: Any) -> bool:
    return isinstance(weight, Bank) and weight.choice is not None


def _one(weight: Any) -> Any:
    """What the first example's rows meet of a bank."""
    if not _chosen(weight):
        return weight

    def first(of, choice):
        return of[choice[0]]

    if weight.choice.ndim > 1:  # Layers of a scan.
        first = jax.vmap(first)
    a, b, scale = (first(of, weight.choice) for of in (weight.a, weight.b, weight.scale))
    return LowRank(base=weight.base, a=a, b=b, scale=jnp.asarray(scale, jnp.float32), owner=weight.owner)
