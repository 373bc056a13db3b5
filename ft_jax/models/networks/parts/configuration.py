"""Checks that model configurations and batches share."""

import dataclasses

from ft_jax.outside import printable

COLLECTABLE = ("hidden", "attention", "scores", "projections")
REMAT = ("none", "dots", "full")
COMPUTED = ("float32", "bfloat16", "float16")
"""Types that a network computes in."""


def check(config, *, divides: tuple[tuple[str, str], ...]) -> None:
    """Refuses a configuration with a number out of range, or where a field of `divides` doesn't divide its partner.

    Raises:
      ValueError: naming field, value and remedy.
    """
    name = type(config).__name__
    for field in dataclasses.fields(config):
        number = getattr(config, field.name)
        if field.type is int and (not isinstance(number, int) or number < 1):
            raise ValueError(f"{name}.{field.name} is {printable(number)}; it must be a whole number of at least 1")
        if field.type is float and not isinstance(number, int | float):
            raise ValueError(f"{name}.{field.name} is {printable(number)}; it must be a number")
        if field.name.endswith("dropout") and not 0.0 <= number < 1.0:
            raise ValueError(f"{name}.{field.name} is {number}; a dropout rate lies in [0, 1)")
    for part, whole in divides:
        if getattr(config, whole) % getattr(config, part):
            raise ValueError(
                f"{name}.{part} is {getattr(config, part)} and must divide {whole}, which is {getattr(config, whole)}"
            )
    if getattr(config, "dtype", "float32") not in COMPUTED:
        raise ValueError(f"{name}.dtype is {printable(config.dtype)}; compute in {', '.join(COMPUTED)}")
    if getattr(config, "remat", "none") not in REMAT:
        raise ValueError(f"{name}.remat is {printable(config.remat)}; use one of {', '.join(map(repr, REMAT))}")
    for what in getattr(config, "collect", ()):
        if what not in COLLECTABLE:
            raise ValueError(f"{name}.collect has {printable(what)}; it may hold {', '.join(map(repr, COLLECTABLE))}")


def check_length(ids, longest: int) -> None:
    """Refuses sequences longer than the model takes.

    Raises:
      ValueError: naming both lengths.
    """
    if ids.shape[1] > longest:
        raise ValueError(
            f"input_ids has {ids.shape[1]} tokens a sequence and the model takes {longest}; truncate or split them"
        )
