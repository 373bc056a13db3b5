"""The table between this library's parameter paths and a published format's tensor names."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ft_jax.outside import printable

FREQUENCIES = "rope_freqs.weight"
"""The one tensor of a GGUF file that is configuration: what each rotary frequency is divided by (Llama 3)."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One of the slices that a fused tensor is made of.

    Attributes:
      index: which.
      sizes: of all of them, along `axis`.
      axis: of the stored tensor.
    """

    index: int
    sizes: tuple[int, ...]
    axis: int = 0

    @property
    def bounds(self) -> tuple[int, int]:
        """Where the slice begins and ends."""
        return sum(self.sizes[: self.index]), sum(self.sizes[: self.index + 1])


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where a parameter is in a checkpoint.

    Attributes:
      name: of the tensor there.
      transposed: whether the checkpoint stores ``[outputs, inputs]``.
      heads: where not None, the heads whose rows llama.cpp interleaved for its own rotary layout.
      offset: the parameter is the stored number plus it (Gemma's norms scale by ``1 + stored``).
      part: which slice of a fused tensor it is, or None for all of it.
      more: further tensors, stacked after the first on a new leading axis (experts).
    """

    name: str
    transposed: bool = False
    heads: int | None = None
    offset: float = 0.0
    part: Part | None = None
    more: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The stored tensors that `read` takes."""
        return (self.name, *self.more)

    @property
    def whole(self) -> bool:
        """Whether `read` takes stored tensors as a whole alone, not some of their rows."""
        return self.heads is not None

    def read(self, *stored: np.ndarray) -> np.ndarray:
        """The parameter out of the stored tensors of `names`."""
        read = [self._read(array) for array in stored]
        return np.stack(read) if self.more else read[0]

    def _read(self, stored):
        if self.part is not None:
            begin, end = self.part.bounds
            stored = stored[(slice(None),) * self.part.axis + (slice(begin, end),)]
        if self.heads is not None:
            half = stored.shape[0] // self.heads // 2
            stored = stored.reshape(self.heads, half, 2, -1).swapaxes(1, 2).reshape(stored.shape)
        if self.offset:
            stored = stored.astype(np.float32) + np.float32(self.offset)
        return np.ascontiguousarray(np.swapaxes(stored, -1, -2)) if self.transposed else stored

    def write(self, parameter: np.ndarray) -> np.ndarray:
        """What a stored tensor holds of a parameter (the inverse of `read` for safetensors); see `writers`."""
        if self.offset:
            parameter = (parameter.astype(np.float32) - np.float32(self.offset)).astype(parameter.dtype)
        return np.ascontiguousarray(np.swapaxes(parameter, -1, -2)) if self.transposed else parameter

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of each stored tensor, for a parameter of `shape`."""
        shape = tuple(shape[1:] if self.more else shape)
        if self.transposed:
            shape = (*shape[:-2], shape[-1], shape[-2])
        if self.part is not None:
            axis = self.part.axis
            shape = (*shape[:axis], sum(self.part.sizes), *shape[axis + 1 :])
        return shape


@dataclasses.dataclass(frozen=True)
class Writer:
    """How one stored tensor is made.

    Attributes:
      paths: the parameters it needs.
      tensors: where each is in it.
      index: which of a stack's layers it is, or None.
    """

    paths: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    index: int | None = None

    def write(self, *parameters: np.ndarray) -> np.ndarray:
        """The stored tensor out of the parameters at `paths`."""
        if self.index is not None:
            parameters = tuple(parameter[self.index] for parameter in parameters)
        pieces = [tensor.write(piece) for tensor, piece in zip(self.tensors, parameters, strict=True)]
        part = self.tensors[0].part
        return pieces[0] if part is None else np.concatenate(pieces, axis=part.axis)

    def shape(self, *shapes: tuple[int, ...]) -> tuple[int, ...]:
        """The stored tensor's shape, for parameters of these shapes."""
        return self.tensors[0].stored_shape(shapes[0])


def writers(table: Mapping[str, Tensor]) -> dict[str, Writer]:
    """What each stored tensor of a checkpoint is made of.

    Example:
      >>> fused = {"a": Tensor("ab", part=Part(0, (1, 2))), "b": Tensor("ab", part=Part(1, (1, 2)))}
      >>> writers(fused)["ab"].write(np.array([1]), np.array([2, 3])).tolist()
      [1, 2, 3]
    """
    fused: dict[str, list[tuple[str, Tensor]]] = {}
    made: dict[str, Writer] = {}
    for path, tensor in table.items():
        if tensor.part is not None:
            fused.setdefault(tensor.name, []).append((path, tensor))
        elif tensor.more:
            made |= {name: Writer((path,), (tensor,), index) for index, name in enumerate(tensor.names)}
        else:
            made[tensor.name] = Writer((path,), (tensor,))
    for name, parts in fused.items():
        parts.sort(key=lambda entry: entry[1].part.index)
        made[name] = Writer(tuple(path for path, _ in parts), tuple(tensor for _, tensor in parts))
    return made


@dataclasses.dataclass(frozen=True)
class Between:
    """The layer between what a network gives and a head's outputs: ``norm(activation(x @ kernel + bias))``.

    Attributes:
      activation: its name.
      bias: whether there is one.
      epsilon: of the layer norm after it; None for none.
      norm_bias: whether the norm has a bias.
    """

    activation: str
    bias: bool = True
    epsilon: float | None = None
    norm_bias: bool = False


@dataclasses.dataclass(frozen=True)
class PublishedHead:
    """A head that transformers has for an architecture.

    Attributes:
      class_name: of transformers.
      kind: of `ft_jax.models.heads.HEADS` (a regression is a classification there).
      pooling: how tokens become one vector an example; None for one a token.
      tensors: where its parameters are, by their paths.
      between: the layer before the outputs, if any.
      bias: whether the outputs have one.
      fields: of config.json that say so.
    """

    class_name: str
    kind: str
    pooling: str | None
    tensors: Mapping[str, Tensor]
    between: Between | None = None
    bias: bool = True
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def head_tensors(
    output: str, bias: bool = True, dense: str = "", norm: str = "", between: Between | None = None
) -> dict[str, Tensor]:
    """The entries of a head whose outputs, dense layer and norm are the modules of these names."""
    entries = projection("head", output, bias)
    if between is not None:
        entries |= projection("head/dense", dense, between.bias)
        if between.epsilon is not None:
            entries["head/norm/scale"] = Tensor(f"{norm}.weight")
            entries |= {"head/norm/bias": Tensor(f"{norm}.bias")} if between.norm_bias else {}
    return entries


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
      copies: endings of those of them that hold a parameter again, to that parameter's path.
      modules: ``table -> table`` with the names that transformers 5 has in memory where files have others, which is
        how peft knows the tensors.
      heads: ``config -> `` the heads that transformers has for it, the usual one of a kind first.
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
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    heads: Callable[[Any], tuple[PublishedHead, ...]] = lambda config: ()
    modules: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict


def renamed(*pairs: tuple[str, str]) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """A table with each name changed by the first pattern that is found in it.

    Example:
      >>> renamed((r"^old\\.", "new."))({"a": Tensor("old.weight")})["a"].name
      'new.weight'
    """

    def change(table):
        made = {}
        for path, tensor in table.items():
            found = next(((old, new) for old, new in pairs if re.search(old, tensor.name)), None)
            made[path] = tensor if found is None else dataclasses.replace(tensor, name=re.sub(*found, tensor.name))
        return made

    return change


def required(mapping: Mapping[str, Any], name: str, source: str):
    """``mapping[name]``.

    Raises:
      ValueError: where it is not there.
    """
    if mapping.get(name) is None:
        raise ValueError(f"{source} has no {printable(name)}, which the architecture needs; is the file complete?")
    return mapping[name]


def projection(path: str, name: str, bias: bool, heads: int | None = None) -> dict[str, Tensor]:
    """The entries of a projection, stored transposed."""
    entries = {f"{path}/kernel": Tensor(f"{name}.weight", transposed=True, heads=heads)}
    if bias:
        entries[f"{path}/bias"] = Tensor(f"{name}.bias", heads=heads)
    return entries


def norm(path: str, name: str, bias: bool, offset: float = 0.0) -> dict[str, Tensor]:
    """The entries of a norm, whose scale is `offset` more than what is stored."""
    entries = {f"{path}/scale": Tensor(f"{name}.weight", offset=offset)}
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
