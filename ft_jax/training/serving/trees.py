"""Parameters with operators and grafts as JSON and arrays, and back, with no class taken from outside the package."""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ft_jax.models.checkpoints.safetensors_file import NAMES
from ft_jax.outside import one_line, printable

PACKAGE = "ft_jax."
ARRAYS = {str(dtype) for dtype in NAMES}
"""Types of arrays that a file of weights holds."""


class Unwritable(ValueError):
    """Something in a tree that JSON and arrays can't stand for; the message says what and where."""


def take_apart(tree: Any, place: str = "") -> tuple[Any, dict[str, Any]]:
    """A tree as JSON that names its arrays, and the arrays by name.

    Args:
      tree: of dicts, tuples, None, plain values, arrays (or their shapes), and dataclasses of this package.
      place: what names begin with.

    Raises:
      Unwritable: another kind of thing, an array of a type that no file of weights holds, or a dataclass of another
        package, which a reader would have to run.

    Example:
      >>> from ft_jax.core.weights import Scaled
      >>> told, arrays = take_apart({"up": Scaled(base=np.zeros((2, 3)), scale=np.ones(3), owner="ia3")})
      >>> sorted(arrays), put_together(told, arrays)["up"].owner
      (['up/base', 'up/scale'], 'ia3')
    """
    if isinstance(tree, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
        if str(tree.dtype) not in ARRAYS:
            raise Unwritable(f"{place or 'it'} holds numbers of type {tree.dtype}, which safetensors can't")
        return {"array": place}, {place: tree}
    if isinstance(tree, np.generic):
        tree = tree.item()
    if tree is None or isinstance(tree, bool | int | float | str):
        return {"value": tree}, {}
    if isinstance(tree, Mapping):
        kind, children = {"dict": None}, dict(tree)
    elif isinstance(tree, tuple | list):
        kind, children = {"tuple": None}, {str(index): child for index, child in enumerate(tree)}
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        owner = type(tree)
        if not f"{owner.__module__}.".startswith(PACKAGE):
            raise Unwritable(f"{place or 'it'} is a {owner.__name__} of {owner.__module__}, which is no part of ft_jax")
        kind = {"type": f"{owner.__module__}:{owner.__qualname__}"}
        children = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree) if field.init}
    else:
        raise Unwritable(f"{place or 'it'} is a {type(tree).__name__}, which can't be written down")
    told, arrays = {}, {}
    for name, child in children.items():
        told[str(name)], found = take_apart(child, f"{place}/{name}".lstrip("/"))
        arrays |= found
    return {**kind, "of": told}, arrays


def put_together(told: Any, arrays: Mapping[str, Any]) -> Any:
    """The inverse of `take_apart`.

    Raises:
      ValueError: JSON that `take_apart` did not make, a class that the package does not have, an array that is missing.
    """
    try:
        return _put_together(told, arrays)
    except (KeyError, TypeError, AttributeError, ModuleNotFoundError, RecursionError) as error:
        raise ValueError(
            f"the tree can't be read ({type(error).__name__}: {one_line(error)}); was it written by another version?"
        ) from None


def _put_together(told, arrays):
    if "value" in told:
        return told["value"]
    if "array" in told:
        return arrays[told["array"]]
    children = {name: _put_together(child, arrays) for name, child in told["of"].items()}
    if "dict" in told:
        return children
    if "tuple" in told:
        return tuple(children.values())
    module, _, name = told["type"].partition(":")
    if not f"{module}.".startswith(PACKAGE):
        raise ValueError(
            f"it asks for {printable(told['type'])}, which is no part of ft_jax; nothing outside is imported"
        )
    owner = importlib.import_module(module)
    for part in name.split("."):
        owner = getattr(owner, part)
    own = isinstance(owner, type) and dataclasses.is_dataclass(owner) and f"{owner.__module__}.".startswith(PACKAGE)
    if not own:
        raise ValueError(f"it asks for {printable(told['type'])}, which is no dataclass of ft_jax")
    return owner(**children)
