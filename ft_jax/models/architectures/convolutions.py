"""Stored tensors whose axes are not those of the parameter: convolutions over patches and windows, leading ones."""

import dataclasses
import math

import numpy as np

from ft_jax.models.architectures.naming import Tensor


@dataclasses.dataclass(frozen=True)
class Convolution(Tensor):
    """A convolution's kernel as the matrix ``[places · inputs, outputs]`` that multiplies its unfolded windows.

    Stored is ``[outputs, inputs, *size]``.

    Attributes:
      size: of the window.

    Example:
      >>> Convolution("conv.weight", size=(4, 4)).stored_shape((48, 8))
      (8, 3, 4, 4)
    """

    transposed: bool = True
    size: tuple[int, ...] = ()

    def _read(self, stored):
        moved = np.moveaxis(stored, (1, 0), (-2, -1))
        return np.ascontiguousarray(moved.reshape(-1, stored.shape[0]))

    def write(self, parameter):
        split = parameter.reshape(*self.size, -1, parameter.shape[-1])
        return np.ascontiguousarray(np.moveaxis(split, (-2, -1), (1, 0)))

    def stored_shape(self, shape):
        return (shape[1], shape[0] // math.prod(self.size), *self.size)


@dataclasses.dataclass(frozen=True)
class Lifted(Tensor):
    """A parameter that is stored with `axes` more leading axes of length 1.

    Example:
      >>> Lifted("cls_token", axes=2).stored_shape((32,))
      (1, 1, 32)
    """

    axes: int = 1

    @property
    def whole(self):
        return True

    def _read(self, stored):
        return stored.reshape(stored.shape[self.axes :])

    def write(self, parameter):
        return parameter.reshape(self.stored_shape(parameter.shape))

    def stored_shape(self, shape):
        return (*(1,) * self.axes, *shape)
