"""Arrays of operators on projections, as peft's files have them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ft_jax.models.architectures import Tensor
from ft_jax.models.architectures.convolutions import Convolution
from ft_jax.models.peft.modules import TABLES


@dataclasses.dataclass(frozen=True)
class Field:
    """Where an operator's array is in peft's file.

    Attributes:
      ending: what follows the module's name and a dot, such as ``"lora_A.weight"``.
      transposed: whether it is stored ``[outputs, inputs]``.
      shape: ``operator -> stored shape`` where the numbers stand in another shape there.
      window: beside a convolution, whether the array reads its ``"whole"`` window or a single ``"point"``; None where
        the kind has no adapter of a convolution.
      experts: beside a stack of experts, the file's order of the axes ``[experts, reads, writes]`` and how many of them
        lie on its first; None where the kind has no adapter of one.
      table: the ending beside a table of tokens; None where the kind has no adapter of one.
    """

    ending: str
    transposed: bool = False
    shape: Callable[[Any], tuple[int, ...]] | None = None
    window: str | None = None
    experts: tuple[tuple[int, int, int], int] | None = None
    table: str | None = None

    def at(self, place: str) -> str:
        """The ending on the module at `place`."""
        if place not in TABLES:
            return self.ending
        if self.table is None:
            raise ValueError(
                f"{place} is a table, of which peft has no adapter of this kind; leave it out of targets, or use LoRA"
            )
        return self.table

    def stored(self, array, holder, tensor: Tensor, place: str):
        """An operator's `array` as the file has it, on the module whose kernel is `tensor`."""
        if isinstance(tensor, Convolution):
            if self.window is None:
                raise ValueError(
                    f"{place} is a convolution, of which peft's kind of adapter is not known here; leave it out of "
                    "targets, or use LoRA"
                )
            size = tensor.size if self.window == "whole" else (1,) * len(tensor.size)
            return jnp.moveaxis(array.reshape(*size, -1, array.shape[-1]), (-2, -1), (1, 0))
        if tensor.more:
            if self.experts is None:
                raise ValueError(
                    f"{place} is a stack of experts, of which peft has LoRA alone; leave it out of targets"
                )
            order, first = self.experts
            moved = jnp.transpose(array, order)
            return moved.reshape(int(np.prod(moved.shape[:first])), -1)
        array = array.T if self.transposed else array
        return array if self.shape is None else array.reshape(self.shape(holder))

    def read(self, array, tensor: Tensor):
        """The inverse of `stored`, but for the shape."""
        if isinstance(tensor, Convolution):
            return np.moveaxis(array, (1, 0), (-2, -1))
        if tensor.more:
            (order, first), count = self.experts, 1 + len(tensor.more)
            rows, columns = array.shape
            apart = (count, rows // count, columns) if first == 2 else (rows, columns // count, count)
            return np.transpose(array.reshape(apart), np.argsort(order))
        return array.T if self.transposed else array


def per_projection(fields: Mapping[str, Field]) -> tuple[Callable, Callable]:
    """``(pack, unpack)`` of operators on projections, each of whose `fields` is one tensor; None fields have none."""

    def names(place, holder, modules):
        for name, field in fields.items():
            if getattr(holder, name) is not None:
                yield name, field, f"{modules.prefix}{modules.names[place]}.{field.at(place)}"

    def pack(holders, modules):
        tensors = {}
        for place, holder in holders.items():
            for name, field, stored in names(place, holder, modules):
                tensors[stored] = field.stored(getattr(holder, name), holder, modules.tensors[place], place)
        return tensors

    def unpack(tensors, holders, modules):
        filled = {}
        for place, holder in holders.items():
            values = {}
            for name, field, stored in names(place, holder, modules):
                read = field.read(tensors[stored], modules.tensors[place])
                values[name] = jnp.asarray(read, jnp.float32).reshape(getattr(holder, name).shape)
            filled[place] = dataclasses.replace(holder, **values)
        return filled

    return pack, unpack
