"""Which array goes where on a mesh of devices: rules over parameter paths."""

import math
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ft_jax.core import Shared, TrainState
from ft_jax.core.params import map_with_path, matches

Rule = tuple[str, tuple[str | None, ...]]
"""``(pattern over paths, mesh axis of each trailing dimension)``."""

INTO = ("query", "key", "value", "gate", "up")
"""Projections into a block: their outputs are split over ``tensor``."""

OUT_OF = ("output", "down")
"""Projections out of a block: their inputs are split over ``tensor``, one sum per block follows."""

RULES: tuple[Rule, ...] = (
    *((f"*/{name}/kernel*/a", ("fsdp", None)) for name in INTO),
    *((f"*/{name}/kernel*/b", (None, "tensor")) for name in INTO),
    *((f"*/{name}/kernel*/a", ("tensor", None)) for name in OUT_OF),
    *((f"*/{name}/kernel*/b", (None, "fsdp")) for name in OUT_OF),
    *((f"*/{name}/kernel*", ("fsdp", "tensor")) for name in INTO),
    *((f"*/{name}/bias", ("tensor",)) for name in INTO),
    *((f"*/{name}/kernel*", ("tensor", "fsdp")) for name in OUT_OF),
    ("*/embeddings/tokens*", ("tensor", "fsdp")),
    ("*/head/kernel*", ("fsdp", "tensor")),
)
"""Megatron's layout (Shoeybi et al. 2019, arXiv:1909.08053, section 3) over the library's own model paths.

A rule fits wherever a path ends the way a parameter's does, so the optimizer's moments, a method's Fisher
information and an adapter's base follow their parameter. The first rule that fits is taken.
"""

WHOLE_BELOW = 2**16
"""Leaves without a rule and with fewer numbers than this are replicated."""


def spec_of(path: str, shape: tuple[int, ...], sizes: dict[str, int], rules: Iterable[Rule]) -> PartitionSpec:
    """The partition of one leaf.

    A rule speaks of the last dimensions, so that members of an ensemble in front of them change nothing. An
    axis that does not divide its dimension is dropped. A large leaf without a rule has its longest
    divisible dimension split over ``fsdp``.

    Example:
      >>> sizes = {"data": 2, "fsdp": 2, "tensor": 2}
      >>> tuple(spec_of("opt_state/1/mu/model/layers/0/attention/query/kernel", (8, 16), sizes, RULES))
      ('fsdp', 'tensor')
      >>> tuple(spec_of("params/model/layers/0/attention/query/kernel", (3, 8, 15), sizes, RULES))
      (None, 'fsdp', None)
    """
    for pattern, axes in rules:
        if matches(path, (pattern,)) and len(axes) <= len(shape):
            lead = len(shape) - len(axes)
            fitted = [axis if axis and shape[lead + i] % sizes[axis] == 0 else None for i, axis in enumerate(axes)]
            return PartitionSpec(*(None,) * lead, *fitted)
    split = [i for i, n in enumerate(shape) if n % sizes["fsdp"] == 0 and n > 1]
    if math.prod(shape) < WHOLE_BELOW or not split:
        return PartitionSpec()
    longest = max(split, key=lambda i: shape[i])
    return PartitionSpec(*("fsdp" if i == longest else None for i in range(longest + 1)))


def shardings(tree: Any, mesh: jax.sharding.Mesh, rules: Iterable[Rule] = RULES) -> Any:
    """A `NamedSharding` for each leaf of a tree of arrays or shapes."""
    sizes, rules = dict(mesh.shape), tuple(rules)
    return map_with_path(lambda path, leaf: NamedSharding(mesh, spec_of(path, leaf.shape, sizes, rules)), tree)


MEMBERS = "members"
"""The axis of a mesh over which the members of an ensemble or a population are split."""

OF_MEMBERS = ("params", "opt_state", "hyper", "key")
"""What every member of a lifted state has of its own, beside its methods' memories."""


def state_shardings(state: TrainState, mesh: jax.sharding.Mesh, rules: Iterable[Rule] = RULES) -> TrainState:
    """A `NamedSharding` for each leaf of a state's shapes.

    On a mesh with an axis of `MEMBERS` what members have of their own is split over it along their axis, and the rules
    split the rest of each leaf; the frozen parameters and what a lift shares are whole along it.

    Raises:
      ValueError: such a mesh and no members, or a number of them that does not divide over it.
    """
    sizes, rules = dict(mesh.shape), tuple(rules)
    if MEMBERS not in sizes:
        return shardings(state, mesh, rules)
    if not state.key.shape:
        raise ValueError(
            f"the mesh has {sizes[MEMBERS]} places for members and no method trains several; name ensemble.members or "
            "tuning.population, or leave members out of the mesh"
        )
    if state.key.shape[0] % sizes[MEMBERS]:
        raise ValueError(
            f"{state.key.shape[0]} members do not divide over the mesh's {sizes[MEMBERS]} places for them; make one a "
            "multiple of the other"
        )

    def place(path, leaf):
        field, _, rest = path.partition("/")
        remembered = field == "memory" and not isinstance(state.memory[rest.partition("/")[0]], Shared)
        if field in OF_MEMBERS or remembered:
            return NamedSharding(mesh, PartitionSpec(MEMBERS, *spec_of(path, leaf.shape[1:], sizes, rules)))
        return NamedSharding(mesh, spec_of(path, leaf.shape, sizes, rules))

    return map_with_path(place, state)


def put_on(x, sharding: NamedSharding) -> jax.Array:
    """An array that every process has, to where it belongs; no device sees more than its shard."""
    if sharding.is_fully_addressable or not getattr(x, "is_fully_addressable", True):
        return jax.device_put(x, sharding)
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(put_on(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def own_shards(x: jax.Array) -> np.ndarray:
    """This process's rows of an array that is split along its rows."""
    if x.is_fully_addressable:
        return np.asarray(x)
    own = {shard.index[0].start: np.asarray(shard.data) for shard in x.addressable_shards}
    return np.concatenate([own[start] for start in sorted(own)])


def own_rows(batch):
    """This process's share of a batch that every process has."""
    index, count = jax.process_index(), jax.process_count()
    return jax.tree.map(lambda x: np.asarray(x)[index * len(x) // count : (index + 1) * len(x) // count], batch)
