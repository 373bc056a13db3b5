"""Learning rates by where a leaf is: in the head or behind it, and how far below the output."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ft_jax.core.optimizers import scale_updates
from ft_jax.core.params import Params, map_with_path, matches
from ft_jax.core.state import UpdateEvent

BOTTOM = ("*/embeddings/*", "*/embeddings")
LAYER = re.compile(r"^(?P<stack>.*?)layers/(?P<index>\d+|stacked)(/|$)")


def depths(tree: Params, bottom: tuple[str, ...] = BOTTOM) -> Params:
    """A tree like `tree` with the number of layers between each of the model's leaves and the output.

    The head and what else is after the layers has 0, the last of ``L`` layers 1, the first ``L``, and leaves
    that fit `bottom` ``L + 1``. Leaves of scanned layers (`ft_jax.core.params.STACKED`) have an array of depths that
    broadcasts over them. Leaves outside ``model/`` have 0. Several stacks of layers are counted apart.

    Example:
      >>> leaf = jnp.zeros(2)
      >>> tree = {"model": {"embeddings": {"tokens": leaf}, "layers": {"0": leaf, "1": leaf}, "head": leaf}}
      >>> depths(tree)["model"] == {"embeddings": {"tokens": 3}, "layers": {"0": 2, "1": 1}, "head": 0}
      True
    """
    heights: dict[str, int] = {}

    def measure(path, leaf):
        found = _layer(path)
        if found:
            stack, index = found
            height = leaf.shape[0] if index == "stacked" else int(index) + 1
            heights[stack] = max(heights.get(stack, 0), height)
        return leaf

    map_with_path(measure, tree)
    highest = max(heights.values(), default=0)

    def depth(path, leaf):
        found = _layer(path)
        if found:
            stack, index = found
            if index == "stacked":
                return (heights[stack] - jnp.arange(leaf.shape[0])).reshape(-1, *(1,) * (leaf.ndim - 1))
            return heights[stack] - int(index)
        below = path.startswith("model/") and matches(path, bottom)
        return _height_over(path, heights, highest) + 1 if below else 0

    return map_with_path(depth, tree)


def _layer(path: str) -> tuple[str, str] | None:
    found = LAYER.match(path) if path.startswith("model/") else None
    return (found["stack"], found["index"]) if found else None


def _height_over(path: str, heights: Mapping[str, int], otherwise: int) -> int:
    """The layers of the stack that reads the embeddings at `path`: the one with the same beginning."""
    near = [stack for stack in heights if path.startswith(stack)]
    return heights[max(near, key=len)] if near else otherwise


def scale_by_depth(
    inner: optax.GradientTransformationExtraArgs, factor: Callable[[Any, UpdateEvent], Any]
) -> optax.GradientTransformationExtraArgs:
    """`inner` with every update multiplied by ``factor(depth, event)``."""

    def factors(updates, event):
        return jax.tree.map(lambda depth: factor(depth, event), depths(updates))

    return scale_updates(inner, factors)


def rates_of_parts(updates: Params, head: tuple[str, ...], head_rate: Any, backbone_rate: Any) -> Params:
    """Factors of updates: one for the model's leaves that fit `head`, one for its others, 1 outside the model.

    Example:
      >>> rates_of_parts({"model": {"head": {"bias": 0}, "norm": 0}, "other": 0}, ("*/head/*",), 3.0, 0.5)
      {'model': {'head': {'bias': 3.0}, 'norm': 0.5}, 'other': 1.0}
    """

    def rate(path, _):
        if not path.startswith("model/"):
            return 1.0
        return head_rate if matches(path, head) else backbone_rate

    return map_with_path(rate, updates)
