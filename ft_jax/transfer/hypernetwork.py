"""Adapters written by a network from a description of the task, one for each example of a batch."""

import dataclasses
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.adapters import Targets, map_operators_with_path, owned
from ft_jax.core.batches import rows
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.params import STACKED
from ft_jax.core.weights import LowRank, shape
from ft_jax.transfer.adapter import adapter
from ft_jax.transfer.bank import Bank
from ft_jax.transfer.strength import Strength, uniform

FIELD, TASK = "task_embedding", "task"
"""The batch's fields ``[batch, width]`` and ``[batch]``: what describes each example's task, or which one it is."""

_EMBEDDED = 3


def _described(batch):
    """The laws' batch, whose examples are of two tasks in turn."""
    if "labels" not in batch:
        return batch
    task = jnp.arange(batch["labels"].shape[0]) % 2
    return {**batch, FIELD: jax.nn.one_hot(task, _EMBEDDED) + 0.5}


class _Place(NamedTuple):
    """A weight that gets adapters: its path, its layers' numbers (one, or those of a scan) and its sides."""

    path: str
    layers: tuple[int, ...]
    inputs: int
    outputs: int

    @property
    def module(self) -> str:
        """The path without the number of the layer, the same whether layers are scanned or not."""
        return _LAYER.sub("/layers/#/", self.path)

    @property
    def sides(self) -> str:
        """The name of the heads that write its factors."""
        return f"{self.inputs}x{self.outputs}"


_LAYER = re.compile(r"/layers/(\d+|stacked)/")


@register(
    "transfer",
    paper="Charakorn et al. 2025, arXiv:2506.06105, section 3; Mahabadi et al. 2021, arXiv:2106.04489, section 2",
    example=lambda problem: hypernetwork(_EMBEDDED, rank=2, alpha=1.0, hidden=4, also=("*/head/*",)),
    needs=(FIELD, TASK),
    batch=_described,
    neutral="it replaces what learns by the network that writes adapters, so no alpha trains like the step without it",
)
def hypernetwork(
    width: int,
    rank: int = 8,
    alpha: float = 16.0,
    hidden: int = 64,
    tasks: int = 0,
    targets: str | Iterable[str] | Targets = "all-linear",
    also: tuple[str, ...] = (),
    *,
    name: str = "transfer.hypernetwork",
) -> Method:
    """Learns a network that writes a LoRA from an embedding of the task, also for tasks that it was never trained on.

    For an example whose task is described by ``z [width]``, the weight ``w [inputs, outputs]`` of module ``m`` in layer
    ``l`` is ``w + alpha / rank · a @ b`` with

        ``h = silu(silu(rms(z @ encoder) + modules[m] + layers[l]) @ inner + bias)``
        ``a = h @ head_a + bias_a  [inputs · rank]``, ``b = h @ head_b + bias_b  [rank · outputs]``

    where ``rms(u) = u / √(mean u² + 1e-6)``. Weights of the same sides share their heads. ``head_b`` and ``bias_b``
    start at zero and ``bias_a`` as LoRA's ``a``, so training starts at the pretrained function. That is Text-to-LoRA's
    largest form, whose head writes both factors at once, with HyperFormer's embeddings of layers and places.

    - *Batched*: each example's task is in ``task_embedding [batch, width]``, such as the embedding of a sentence about
      it, or, of a table that learns (`tasks`), in ``task [batch]``. A number past the table's end gives NaN. Every
      example has factors of its own in memory: ``batch · Σ (inputs + outputs) · rank`` numbers.
    - *Shown*: a batch without either field meets the adapter of ``state.memory[name] [width]``, zero at the start;
      ``state.remember("transfer.hypernetwork", z)`` shows a task. `ft_jax.core.parameters` then has its adapter as an
      ordinary LoRA, to merge or for `ft_jax.models.save_adapter`.

    Args:
      width: of a task's embedding.
      rank: of the adapters.
      alpha: their strength, data in ``hyper``.
      hidden: width of the network that writes them.
      tasks: how many embeddings of tasks learn, under ``params[name]["tasks"]``; 0 where the data describe the tasks.
      targets: as in `ft_jax.transfer.lora`.
      also: patterns of leaves that learn in full besides, the same for all tasks, such as ``("*/head/*",)``.
      name: the method's name; what it learns stands under ``params[name]``.

    Raises:
      ValueError: a width, rank or hidden width below 1, fewer than no tasks; at init, a rank above a weight's smaller
        side, or patterns that fit nothing; in training, embeddings of another shape than ``[batch, width]``, or numbers
        of tasks without a table.

    Example:
      >>> params = {"model": {"layers": {"0": {"mlp": {"up": {"kernel": jnp.ones((4, 6))}}}}}}
      >>> own = hypernetwork(5, rank=2, hidden=3).surgery(params, jax.random.key(0))["transfer.hypernetwork"]
      >>> own["encoder"].shape, own["a"]["4x6"]["kernel"].shape, own["b"]["4x6"]["kernel"].shape
      ((5, 3), (3, 8), (3, 12))
    """
    strength = Strength(name, rank, alpha)
    for what, value, least in (("embeddings of width", width, 1), ("hidden width", hidden, 1), ("tasks", tasks, 0)):
        if value < least:
            raise ValueError(f"{name} has {what} {value}; give it at least {least}")

    def shown(path, matrix, key):
        """Where a task's factors go."""
        own, (inputs, outputs) = strength.rank_of(path, matrix), shape(matrix)
        a, b = jnp.zeros((inputs, own)), jnp.zeros((own, outputs))
        return LowRank(base=matrix, a=a, b=b, scale=jnp.float32(strength.scale(path)), owner=name)

    on_weights = adapter(name, shown, (), targets, also)

    def surgery(params, key):
        changed = on_weights.surgery(params, key)
        return {**changed, name: _drawn(_places(changed, name), width, rank, hidden, tasks, key)}

    def view(params, context):
        """One adapter for all, as `LowRank`."""
        a, b = _written(params[name], _places(params, name), context.memory[name][None])
        scale = context.hyper[name]["alpha"] / rank

        def with_factors(path, weight):
            layers = STACKED in path
            own = (factors[path][0] if layers else factors[path][0, 0] for factors in (a, b))
            return dataclasses.replace(
                weight, **dict(zip("ab", own, strict=True)), scale=jnp.broadcast_to(scale, jnp.shape(weight.scale))
            )

        return {**params, **map_operators_with_path(with_factors, {"model": params["model"]}, owner=name)}

    def forward(inner):
        def each(params, batch, context):
            if FIELD not in batch and TASK not in batch:
                return inner(params, batch, context)
            _check(batch, width, tasks, name)
            before, scale = context.view, context.hyper[name]["alpha"] / rank

            def viewed(params, context):
                """An adapter for each example, as `Bank` has several."""
                seen = before(params, context)
                embeddings = batch.get(FIELD)
                if embeddings is None:
                    embeddings = jnp.take(seen[name]["tasks"], batch[TASK], axis=0)
                a, b = _written(seen[name], _places(seen, name), embeddings)
                examples = jnp.arange(embeddings.shape[0])

                def with_factors(path, weight):
                    def placed(leaf):
                        """With the layers before the examples, where the base has them."""
                        return jnp.swapaxes(leaf, 0, 1) if STACKED in path else leaf[:, 0]

                    every = (a[path].shape[1],) if STACKED in path else ()
                    shape = (*every, len(examples))
                    return Bank(
                        base=weight.base,
                        a=placed(a[path]),
                        b=placed(b[path]),
                        scale=jnp.broadcast_to(scale, shape),
                        weights=jnp.zeros(shape),  # What no example owns meets the base alone.
                        choice=jnp.broadcast_to(examples, shape),
                        owner=name,
                    )

                return {**seen, **map_operators_with_path(with_factors, {"model": seen["model"]}, owner=name)}

            return inner(params, batch, context.replace(view=viewed))

        return each

    def refuses(parts):
        names = [part.name for part in parts]
        if "transfer.dora" not in names[: names.index(name)]:
            return None
        return (
            f"transfer.dora takes the norm of one weight, and {name} shows every example another; name transfer.dora "
            f"after {name}, or leave one of the two out"
        )

    return Method(
        name=name,
        hyper={"alpha": alpha},
        surgery=surgery,
        trainable=owned(name, (), also),
        memory=lambda params, key: jnp.zeros(width),
        view=view,
        forward=forward,
        refuses=refuses,
    )


def _places(params: Any, name: str) -> list[_Place]:
    """Where the method's adapters are, in the order of the tree."""
    found: list[_Place] = []

    def collect(path, weight):
        *layers, inputs, _ = weight.a.shape
        outputs = weight.b.shape[-1]
        number = re.search(r"/layers/(\d+)/", path)
        own = tuple(range(layers[0])) if layers else (int(number[1]) if number else 0,)
        found.append(_Place(path, own, inputs, outputs))
        return weight

    map_operators_with_path(collect, {"model": params["model"]}, owner=name)
    return found


def _drawn(places: list[_Place], width: int, rank: int, hidden: int, tasks: int, key: jax.Array) -> dict[str, Any]:
    """What learns, as it starts."""
    keys = iter(jax.random.split(key, 5 + 2 * len(places)))
    normal = jax.random.normal
    own: dict[str, Any] = {
        "encoder": normal(next(keys), (width, hidden)) * width**-0.5,
        "modules": normal(next(keys), (len({place.module for place in places}), hidden)),
        "layers": normal(next(keys), (1 + max(max(place.layers) for place in places), hidden)),
        "inner": {"kernel": normal(next(keys), (hidden, hidden)) * hidden**-0.5, "bias": jnp.zeros(hidden)},
        "a": {},
        "b": {},
    }
    table = next(keys)
    if tasks:
        own["tasks"] = normal(table, (tasks, width))
    for sides, (inputs, outputs) in sorted({place.sides: place[2:] for place in places}.items()):
        kernel = uniform(next(keys), (hidden, inputs * rank), inputs) * hidden**-0.5
        own["a"][sides] = {"kernel": kernel, "bias": uniform(next(keys), (inputs * rank,), inputs)}
        own["b"][sides] = {"kernel": jnp.zeros((hidden, rank * outputs)), "bias": jnp.zeros(rank * outputs)}
    return own


Factors = dict[str, Float[Array, "tasks layers rows columns"]]


def _written(own: Any, places: list[_Place], embeddings: Float[Array, "tasks width"]) -> tuple[Factors, Factors]:
    """The factors ``a`` and ``b`` of every place, by its path; weights of the same sides in one product."""
    modules = {module: number for number, module in enumerate(sorted({place.module for place in places}))}
    encoded = embeddings.astype(jnp.float32) @ own["encoder"]
    encoded = encoded * jax.lax.rsqrt(jnp.mean(jnp.square(encoded), axis=-1, keepdims=True) + 1e-6)
    a: Factors = {}
    b: Factors = {}
    for sides in sorted({place.sides for place in places}):
        alike = [place for place in places if place.sides == sides]
        which = jnp.array([modules[place.module] for place in alike for _ in place.layers])
        layers = jnp.array([layer for place in alike for layer in place.layers])
        inner = jax.nn.silu(encoded[:, None] + own["modules"][which] + own["layers"][layers])
        inner = jax.nn.silu(inner @ own["inner"]["kernel"] + own["inner"]["bias"])  # [tasks, weights, hidden]
        inputs, outputs = alike[0][2:]
        for factors, heads, size in ((a, own["a"], (inputs, -1)), (b, own["b"], (-1, outputs))):
            flat = inner @ heads[sides]["kernel"] + heads[sides]["bias"]
            written, begin = flat.reshape(*flat.shape[:2], *size), 0
            for place in alike:
                factors[place.path] = written[:, begin : begin + len(place.layers)]
                begin += len(place.layers)
    return a, b


def _check(batch: Any, width: int, tasks: int, name: str) -> None:
    """Refuses a batch whose tasks can't be read."""
    count = rows({field: x for field, x in batch.items() if field not in (FIELD, TASK)} or batch)
    if FIELD in batch and jnp.shape(batch[FIELD]) != (count, width):
        raise ValueError(
            f"{name} got batch[{FIELD!r}] of shape {jnp.shape(batch[FIELD])} for {count} examples and embeddings of "
            f"width {width}; give each example one"
        )
    if FIELD in batch:
        return
    if not tasks:
        raise ValueError(f"{name} got batch[{TASK!r}] and has no table; give it tasks=..., or give batch[{FIELD!r}]")
    if jnp.shape(batch[TASK]) != (count,):
        raise ValueError(
            f"{name} got batch[{TASK!r}] of shape {jnp.shape(batch[TASK])} for {count} examples; give each one number"
        )
