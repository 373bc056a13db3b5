"""Grafts: what a method adds inside a model's modules, beside the weights.

A module's own parameters say what it is; under its key ``"grafts"`` stand the additions of methods, by the
method's name: ``params["model"]["layers"]["0"]["attention"]["grafts"]["attention.prefix_tuning"]``. The networks
call each graft at the four places below, so a prefix, a gate or a virtual token works with every architecture.
"""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float, Int


class Graft:
    """An addition to a module; every hook does nothing by default.

    Subclasses are pytree dataclasses made by `ft_jax.core.weights.operator.operator`; their learned arrays are
    leaves at ``…/grafts/<method>/<field>``.
    """

    def positions(self, positions: Int[Array, "batch time"]) -> Int[Array, "batch time"]:
        """Among the embeddings' grafts: each token's position as the model counts it."""
        return positions

    def prepend(self, embedded: Float[Array, "batch time width"]) -> Float[Array, "batch count width"] | None:
        """Among the embeddings' grafts: virtual tokens before the real ones, in the type of `embedded`; None for none.

        The network lets every token see them, and leaves them out of its results.
        """
        return None

    def sources(
        self, attention: Any, keys: Float[Array, "batch source heads width"], values: Any
    ) -> tuple[Array, Array] | None:
        """Among an attention's grafts: keys and values ``[batch, count, heads, width]`` that every query sees, or None.

        Args:
          attention: the module, for its projections.
          keys, values: what the tokens give, keys rotated.
        """
        return None

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
