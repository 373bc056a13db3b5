"""A model of some of another's layers: where a student starts."""

import dataclasses
from collections.abc import Sequence

from ft_jax.core.params import paths
from ft_jax.core.weights import is_weight
from ft_jax.models.model import shapes
from ft_jax.models.networks.parts.stacking import stack_layers, unstack_layers

BY_PLACE = ("rotary", "windowed", "local")
"""Fields of configurations that say which layers are of a kind, repeated over the layers."""


def with_layers(model, layers: Sequence[int]):
    """`model` with some of its layers alone, in the order given: a student that starts as its teacher does.

    Sanh et al. 2019, "DistilBERT", arXiv:1910.01108, section 2: every second layer of the teacher. Embeddings, norms,
    head and tokenizer stay, and every layer keeps its kind (windowed or not). The arrays are the model's own, not
    copies. Take layers before methods put adapters in.

    Args:
      model: an encoder or decoder with one tower of layers.
      layers: their numbers, each at most once; negative ones count from the end.

    Raises:
      ValueError: a model without one tower of layers; no layer, one that it does not have, or one twice; one that has
        other parameters than its new place.

    Example:
      >>> import jax
      >>> from ft_jax import models
      >>> model = models.tiny_encoder(jax.random.key(0), layers=6)
      >>> student = with_layers(model, (1, 3, 5))
      >>> student.config.layers, student.parameters < model.parameters
      (3, True)
    """
    config = model.config
    if not hasattr(config, "layers") or "layers" not in model.params:
        raise ValueError(f"{type(config).__name__} has no tower of layers to choose from; take an encoder or a decoder")
    wrong = [number for number in layers if not -config.layers <= number < config.layers]
    chosen = [number % config.layers for number in layers]
    if wrong or not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(
            f"layers are {list(layers)} of a model that has {config.layers}; give some of 0 to {config.layers - 1}, "
            "each once"
        )
    apart = unstack_layers(model.params)
    kept = {str(place): apart["layers"][str(number)] for place, number in enumerate(chosen)}
    params = {**apart, "layers": kept}
    kinds = {name: getattr(config, name) for name in BY_PLACE if hasattr(config, name)}
    kinds = {name: tuple(kind[number % len(kind)] for number in chosen) for name, kind in kinds.items()}
    config = dataclasses.replace(config, layers=len(chosen), **kinds)
    expected = shapes(dataclasses.replace(config, scan=False) if hasattr(config, "scan") else config)["layers"]
    for place, layer in kept.items():
        other = set(paths(layer, is_leaf=is_weight)) ^ set(paths(expected[place]))
        if other:
            raise ValueError(
                f"layer {chosen[int(place)]} can't stand in place {place}, whose layer differs in "
                f"{sorted(other)[0]!r}; leave that one where it is"
            )
    if getattr(config, "scan", False):
        params = stack_layers(params)
    return dataclasses.replace(
        model, config=config, params=params, apply=dataclasses.replace(model.apply, config=config)
    )
