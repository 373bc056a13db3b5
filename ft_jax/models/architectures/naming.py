"""The table between this library's parameter paths and a published format's tensor names."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where a parameter is in a checkpoint.

    Attributes:
      name: of the tensor there.
      transposed: whether the checkpoint stores ``[outputs, inputs]``.
      heads: where not None, the heads whose rows llama.cpp interleaved for its own rotary layout.
    """

    name: str
    transposed: bool = False
    heads: int | None = None

    def read(self, stored: np.ndarray) -> np.ndarray:
        """The parameter out of the stored tensor."""
        if self.heads is not None:
            half = stored.shape[0] // self.heads // 2
            stored = stored.reshape(self.heads, half, 2, -1).swapaxes(1, 2).reshape(stored.shape)
        return np.ascontiguousarray(stored.T) if self.transposed else stored

    def write(self, parameter: np.ndarray) -> np.ndarray:
        """The stored tensor of a parameter (the inverse of `read` for safetensors)."""
        return np.ascontiguousarray(parameter.T) if self.transposed else parameter

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The stored tensor's shape, for a parameter of `shape`."""
        return tuple(reversed(shape)) if self.transposed else tuple(shape)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A published architecture.

    Attributes:
      model_types: its names in config.json (``model_type``) and GGUF files.
      read: ``(config.json, tensor names) -> config``.
      write: ``config -> config.json``.
      tensors: ``config -> {path: Tensor}`` for safetensors.
      prefix: what a checkpoint with a head puts before the network's names, such as ``"bert."``.
      unread: endings of tensor names that hold nothing of their own (a constant, a tied copy) and are passed over.
      fits: whether a configuration is saved as this architecture.
      read_gguf: ``(metadata, tensor names) -> config``, or None where there is no GGUF form.
      gguf: ``config -> {path: Tensor}`` for GGUF, or None.
    """

    model_types: tuple[str, ...]
    read: Callable[[Mapping[str, Any], set[str]], Any]
    write: Callable[[Any], dict[str, Any]]
    tensors: Callable[[Any], dict[str, Tensor]]
    prefix: str
    unread: tuple[str, ...]
    fits: Callable[[Any], bool]
    read_gguf: Callable[[Mapping[str, Any], set[str]], Any] | None = None
    gguf: Callable[[Any], dict[str, Tensor]] | None = None


def required(mapping: Mapping[str, Any], name: str, source: str):
    """``mapping[name]``.

    Raises:
      ValueError: where it is not there.
    """
    if mapping.get(name) is None:
        raise ValueError(f"{source} has no {name!r}, which the architecture needs; is the file complete?")
    return mapping[name]


def projection(path: str, name: str, bias: bool, heads: int | None = None) -> dict[str, Tensor]:
    """The entries of a projection, stored transposed."""
    entries = {f"{path}/kernel": Tensor(f"{name}.weight", transposed=True, heads=heads)}
    if bias:
        entries[f"{path}/bias"] = Tensor(f"{name}.bias", heads=heads)
    return entries


def norm(path: str, name: str, bias: bool) -> dict[str, Tensor]:
    """The entries of a layer norm."""
    entries = {f"{path}/scale": Tensor(f"{name}.weight")}
    if bias:
        entries[f"{path}/bias"] = Tensor(f"{name}.bias")
    return entries


def flat(tree: Mapping, prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": x}}`` as ``{"a/b": x}``."""
    leaves = {}
    for name, child in tree.items():
        path = f"{prefix}{name}"
        leaves.update(flat(child, f"{path}/") if isinstance(child, Mapping) else {path: child})
    return leaves


def nested(leaves: Mapping[str, Any]) -> dict:
    """The inverse of `flat`.

    Example:
      >>> nested({"a/b": 1, "a/c": 2})
      {'a': {'b': 1, 'c': 2}}
    """
    tree: dict = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = leaf
    return tree
