"""Every constructor of the catalogue refuses a value of the wrong kind, in a sentence, when it is called."""

import inspect
import typing
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ft_jax.core import catalogue
from ft_jax.core.arguments import MANY, _origin, checked, fits
from ft_jax.testing.problem import problem


class Stranger:
    """Something that no option is."""

    def __repr__(self):
        return "a stranger"


def wrong_for(annotation):
    """Values that an annotation rules out."""
    options = typing.get_args(annotation) if _origin(annotation) is typing.Union else (annotation,)
    plain = {float: ["16", True], int: ["16", 1.5], str: [3], bool: ["yes", 1]}
    values = ["16", True, 1.5, 3, "yes", 1, {"a": 1}, None, 3.5]
    known = [one for one in options if one in plain or one is type(None) or _origin(one) in (*MANY, typing.Literal)]
    if len(known) < len(options):
        return []
    return [value for value in values if not fits(value, annotation)]


def options():
    for name, entry in catalogue.items():
        hints = typing.get_type_hints(entry.build)
        for option, parameter in inspect.signature(entry.build).parameters.items():
            if option in hints and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                for value in wrong_for(hints[option]):
                    yield pytest.param(name, option, value, id=f"{name}-{option}-{value!r}")


def test_every_constructor_refuses_values_of_a_wrong_kind():
    told = 0
    for one in options():
        name, option, value = one.values
        with pytest.raises(ValueError) as refused:
            catalogue[name].build(**{option: value})
        sentence = str(refused.value)
        assert sentence.startswith(f"{name} has {option} {value!r:.60}; give it "), sentence
        assert "\n" not in sentence
        told += 1
    assert told > 1000


def test_every_constructor_has_options_that_are_judged():
    judged = {one.values[0] for one in options()}
    plain = {name for name, entry in catalogue.items() if len(inspect.signature(entry.build).parameters) > 1}
    assert plain <= judged


def test_every_example_is_built_still():
    for entry in catalogue.values():
        assert entry.example(problem()) is not None


@pytest.mark.parametrize(
    "value, annotation, right",
    [
        (3, float, True), (np.float32(3), float, True), (jnp.float32(3), float, True), ("3", float, False),
        (True, float, False), (3, int, True), (np.int64(3), int, True), (3.0, int, False), ("a", str, True),
        (("a", "b"), tuple[str, ...], True), (["a"], tuple[str, ...], True), ("ab", tuple[str, ...], False),
        ((1, 2), tuple[int, int], True), ((1,), tuple[int, int], False), (None, float | None, True),
        (None, float, False), ({}, Mapping[str, float], True), ((), Mapping[str, float], False),
        ("a", typing.Literal["a", "b"], True), ("c", typing.Literal["a", "b"], False), (Stranger(), jax.Array, True),
    ],
)  # fmt: skip
def test_a_value_fits_an_annotation_or_not(value, annotation, right):
    assert fits(value, annotation) is right


def test_numbers_that_are_traced_are_numbers():
    def scaled(weight: float):
        return weight * 2

    assert float(jax.jit(checked("mine.scaled", scaled))(jnp.float32(2.0))) == 4.0


def test_the_documentation_and_the_examples_stay_those_of_the_function():
    import doctest

    from ft_jax.transfer import lora

    build = catalogue["transfer.lora"].build
    found = doctest.DocTestFinder(recurse=True).find(inspect.getmodule(build))
    assert any(one.name.endswith(".lora") and one.examples for one in found)
    assert lora is build or lora.__wrapped__ is build.__wrapped__
    assert "rank" in inspect.signature(build).parameters
