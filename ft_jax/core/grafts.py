"""Grafts: what a method adds inside a model's modules, beside the weights.

A module's own parameters say what it is; under its key ``"grafts"`` stand the additions of methods, by the
method's name: ``params["model"]["layers"]["0"]["attention"]["grafts"]["attention.prefix_tuning"]``. The networks
call each graft at the places below, so a prefix, a gate or a virtual token works with every architecture.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from jaxtyping import Array, Float, Int

from ft_jax.core.params import STACKED, digest


class Graft:
    """An addition to a module; every hook does nothing by default.

    Subclasses are pytree dataclasses made by `ft_jax.core.weights.operator.operator`; their learned arrays are
    leaves at ``…/grafts/<method>/<field>``.

    ``always`` says of virtual tokens, and of keys and values beside the tokens', that they stay in sight of a layer
    with a sliding window; otherwise they slide out of it as if they stood before the sequence, as in peft.
    """

    always = False

    def positions(self, positions: Int[Array, "batch time"]) -> Int[Array, "batch time"]:
        """Among the embeddings' grafts: each token's position as the model counts it."""
        return positions

    def prepend(self, embedded: Float[Array, "batch time width"]) -> Float[Array, "batch count width"] | None:
        """Among the embeddings' grafts: virtual tokens before the real ones, in the type of `embedded`; None for none.

        The network lets every token see them (as far as its windows reach), and leaves them out of its results.
        """
        return None

    def source_values(self, attention: Any, values: Float[Array, "batch time heads width"], x: Array) -> Array:
        """Among an attention's grafts: the values of the tokens `x` ``[batch, time, width]``, before any cache."""
        return values

    def mask(self, mask: Any, queries: int, keys: int, first: Array | int) -> Any:
        """Among an attention's grafts: who sees whom, an `ft_jax.models.networks.parts.masks.Mask` of tokens alone.

        Args:
          mask: without this graft.
          queries, keys: how many there are; all keys of a cache.
          first: the index of the first query among the keys, a scalar or ``[batch]``; 0 without a cache.
        """
        return mask

    def sources(
        self, attention: Any, keys: Float[Array, "batch source heads width"], values: Any
    ) -> tuple[Array, Array] | None:
        """Among an attention's grafts: keys and values ``[batch, count, heads, width]`` before all others, or None.

        Args:
          attention: the module, for its projections.
          keys, values: what the tokens give, keys rotated.
        """
        return None

    def attend(
        self, attend: Callable, queries: Array, keys: Array, values: Array, mask: Any
    ) -> tuple[Float[Array, "batch time heads width"], Array | None]:
        """Among an attention's grafts: the attention itself, mixed values and maps.

        Args:
          attend: ``(queries, keys, values, mask) -> (mixed, maps)``, what stands there without this graft.
          queries, keys, values, mask: of `ft_jax.models.networks.parts.attention.attention`.
        """
        return attend(queries, keys, values, mask)

    def mix(
        self, attention: Any, mixed: Float[Array, "batch time heads width"], queries: Array, x: Array
    ) -> Float[Array, "batch time heads width"]:
        """Among an attention's grafts: what each head gives, before the projection back.

        Args:
          attention: the module, for its projections.
          mixed: the values mixed by the attention weights.
          queries: the (rotated) queries they were mixed for.
          x: the attention's input ``[batch, time, width]``.
        """
        return mixed

    def output(self, x: Float[Array, "batch time width"]) -> Float[Array, "batch time width"]:
        """Among a layer's grafts: the residual stream after the layer."""
        return x

    def pool(
        self, hidden: Float[Array, "batch time width"], real: Int[Array, "batch time"]
    ) -> Float[Array, "batch width"] | None:
        """Among the whole network's grafts: one vector an example out of one a token; None for the model's own way."""
        return None


GRAFTS = "grafts"


def graft(params: Mapping[str, Any], path: str, name: str, value: Graft) -> dict:
    """Parameters with the graft `value` of method `name` on the module at `path`.

    Raises:
      KeyError: where there is no such module.

    Example:
      >>> graft({"layers": {"0": {}}}, "layers/0", "attention.gates", Graft())["layers"]["0"]["grafts"].keys()
      dict_keys(['attention.gates'])
    """
    first, _, rest = path.partition("/")
    if not first:
        return {**params, GRAFTS: {**params.get(GRAFTS, {}), name: value}}
    if first not in params:
        raise KeyError(f"{name} goes on the module {path}, which is not there; its neighbours are {', '.join(params)}")
    return {**params, first: graft(params[first], rest, name, value)}


def attentions(model: Mapping[str, Any]) -> list[str]:
    """The paths of the modules called ``attention`` that make keys and values, by the numbers in them.

    Example:
      >>> layer = {"attention": {"key": {}, "value": {}}}
      >>> attentions({"layers": {"10": layer, "2": layer}})
      ['layers/2/attention', 'layers/10/attention']
    """
    found = []

    def visit(node, path):
        if isinstance(node, Mapping):
            if path and path[-1] == "attention" and {"key", "value"} <= set(node):
                found.append("/".join(path))
            for name, child in node.items():
                visit(child, (*path, name))

    visit(model, ())
    return sorted(found, key=by_number)


def by_number(path: str) -> list:
    """A key by which paths are sorted by the numbers in them.

    Example:
      >>> sorted(["layers/10/attention", "layers/2/attention"], key=by_number)
      ['layers/2/attention', 'layers/10/attention']
    """
    return [(not part.isdigit(), part.zfill(9)) for part in path.split("/")]


def module_at(params: Mapping[str, Any], path: str) -> Any:
    """What stands at `path`."""
    for name in path.split("/") if path else ():
        params = params[name]
    return params


def graft_each(
    params: Mapping[str, Any],
    paths: Iterable[str],
    make: Callable[[Mapping[str, Any], jax.Array], Graft],
    key: jax.Array,
    name: str,
) -> dict:
    """`params` with the graft ``make(module, key)`` of method `name` on each module of `paths`.

    A module's key depends on `key` and its path alone. Layers that run in one scan get one graft each, stacked
    as their parameters are.
    """
    for path in paths:
        module, own = module_at(params, path), jax.random.fold_in(key, digest(path))
        count = stacked(path, module)
        if count is None:
            value = make(module, own)
        else:
            value = jax.vmap(make)(module, jax.random.split(own, count))
        params = graft(params, path, name, value)
    return params


def stacked(path: str, module: Any) -> int | None:
    """How many layers the module at `path` stands for where they run in one scan, else None."""
    return jax.tree.leaves(module)[0].shape[0] if STACKED in f"/{path}/" else None


def map_grafts(function: Callable[[str, Graft], Graft], params: Mapping[str, Any], name: str) -> dict:
    """`params` with ``function(module path, graft)`` in place of every graft of the method `name`."""

    def visit(node, path):
        if not isinstance(node, Mapping):
            return node
        changed = {child: visit(value, (*path, child)) for child, value in node.items() if child != GRAFTS}
        if GRAFTS in node:
            mine = {
                own: function("/".join(path), value) if own == name else value for own, value in node[GRAFTS].items()
            }
            changed[GRAFTS] = mine
        return changed

    return visit(params, ())


def ungrafted(params: Mapping[str, Any]) -> tuple[dict, dict[str, tuple[Graft, ...]]]:
    """``(parameters without grafts, {module path: its grafts in the order of their names})``."""
    found: dict[str, tuple[Graft, ...]] = {}

    def visit(node, path):
        if not isinstance(node, Mapping):
            return node
        if GRAFTS in node:
            found["/".join(path)] = tuple(node[GRAFTS][name] for name in sorted(node[GRAFTS]))
        return {name: visit(child, (*path, name)) for name, child in node.items() if name != GRAFTS}

    return visit(params, ()), found


class Holder:
    """A module's grafts as one static value, which module frameworks leave alone."""

    def __init__(self, grafts: tuple[Graft, ...] = ()):
        self.grafts = grafts

    def __iter__(self):
        return iter(self.grafts)
