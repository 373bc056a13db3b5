"""Which layers of the student learn from which of the teacher's, by number or by name."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.outputs import Outputs
from ft_jax.core.params import nearest
from ft_jax.outside import listed, printable

STATE = "layers"
EMBEDDINGS = "embeddings"
"""The stream before the first layer, as a layer's name."""

Layer = int | str
Layers = Sequence[Layer] | Mapping[Layer, Layer]
"""In this order: words of a command line are several layers, and ``{0: 1}`` is a map."""


def paired(
    layers: Layers, teacher_layers: Sequence[Layer] | None, name: str
) -> tuple[tuple[Layer, ...], tuple[Layer, ...]]:
    """A layer map as the student's layers and the teacher's that go with them.

    A layer is its number, negative from the end, or its name as the model has it: ``"layers/3"``, in a model of several
    towers ``"vision/layers/3"``, and ``"embeddings"`` for the stream before the first.

    Args:
      layers: ``{student's: teacher's}``, or the student's alone.
      teacher_layers: those that go with them, by default the same ones; None beside a mapping.
      name: of the method, for errors.

    Raises:
      ValueError: no layer, layers that don't pair, or a mapping with `teacher_layers` beside it.

    Example:
      >>> paired({0: 1, "layers/1": 3}, None, "mine"), paired((0, 1), (1, 3), "mine")
      (((0, 'layers/1'), (1, 3)), ((0, 1), (1, 3)))
    """
    if isinstance(layers, Mapping):
        if teacher_layers is not None:
            raise ValueError(
                f"{name} has a map of layers and teacher_layers {printable(tuple(teacher_layers))} beside it; give the "
                "teacher's layers in one of them"
            )
        layers, teacher_layers = tuple(layers), tuple(layers.values())
    pairs = tuple(layers) if teacher_layers is None else tuple(teacher_layers)
    if not layers:
        raise ValueError(f"{name} has a map of no layers; give at least one, such as layers={{-1: -1}}")
    if len(pairs) != len(layers):
        raise ValueError(f"{name} pairs {len(layers)} layers with {len(pairs)} of the teacher; give as many of each")
    return tuple(layers), pairs


def states_of(
    outputs: Outputs, layers: Sequence[Layer], who: str, state: str = STATE, what: str = "hidden states"
) -> list[Float[Array, "batch time ..."]]:
    """The states of some layers, float32: the hidden ones after them, or others by their name.

    Args:
      outputs: of a model that collects them.
      layers: as `paired` takes them.
      who: whose they are, for errors.
      state: what the states are called; a layer's is ``"<tower>/<state>/<number>"``.
      what: they are, for errors.

    Raises:
      ValueError: outputs without them, or without that layer's; a number where several towers have one.
    """
    found = _by_layer(outputs, state)
    if not found:
        raise ValueError(
            f"{who} gives no {what}; give the apply of a model that can collect them, or outputs with states "
            f"'{state}/<layer>'"
        )
    return [found[_placed(layer, found, who)].astype(jnp.float32) for layer in layers]


def _by_layer(outputs: Outputs, state: str) -> dict[str, Array]:
    """States by the name of their layer: ``"encoder/query/3"`` is of ``"encoder/layers/3"``."""
    found = {}
    for key, value in outputs.states.items():
        *tower, kind, number = ("", *key.split("/"))
        if kind == state and number.isdecimal():
            found["/".join((*tower[1:], STATE, number))] = value
        elif number == EMBEDDINGS and state == STATE:
            found[key] = value
    return found


def _placed(layer: Layer, found: Mapping[str, Array], who: str) -> str:
    """The name of a layer that there is."""
    counts = _counts(found)
    tower, _, number = str(layer).replace(".", "/").strip("/").rpartition("/")
    whole = number.removeprefix("-").isdecimal()
    if whole and not tower:
        if len(counts) > 1:
            raise ValueError(
                f"{who} has layers of several towers, {listed(counts)}, and {printable(layer)} says of none; name one, "
                f"such as '{next(iter(counts))}/{number}'"
            )
        tower = next(iter(counts), STATE)
    if whole and number.startswith("-") and tower in counts and int(number) >= -counts[tower]:
        number = str(int(number) + counts[tower])
    name = f"{tower}/{number}" if tower else number
    if name not in found:
        there = [f"{one}/0 to {one}/{count - 1}" if count > 1 else f"{one}/0" for one, count in counts.items()]
        there += [one for one in found if one.endswith(EMBEDDINGS)]
        near = f"{tower}/{counts[tower] - 1}" if whole and tower in counts else nearest(name, found, 1)
        raise ValueError(
            f"{who} has no layer {printable(layer)}; it has {listed(there)}, of which {near} is the nearest"
        )
    return name


def _counts(found: Mapping[str, Array]) -> dict[str, int]:
    """``{"encoder/layers": 6}``: how many layers each tower has."""
    counts: dict[str, int] = {}
    for name in found:
        tower, _, number = name.rpartition("/")
        if number.isdecimal():
            counts[tower] = max(counts.get(tower, 0), int(number) + 1)
    return counts
