"""What an agent expects: a network of values of its own, or one more output of the policy's."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp

from ft_jax.core.outputs import Outputs


def initial(key: jax.Array, inputs: int, widths: tuple[int, ...]) -> dict[str, dict[str, jax.Array]]:
    """Orthogonal layers with tanh between them and one output.

    Example:
      >>> sorted(initial(jax.random.key(0), 4, (8,)))
      ['0', '1']
    """
    sizes = (inputs, *widths, 1)
    layers = {}
    for index, (have, give) in enumerate(itertools.pairwise(sizes)):
        gain = 1.0 if give == 1 else math.sqrt(2.0)
        kernel = jax.nn.initializers.orthogonal(gain)(jax.random.fold_in(key, index), (have, give))
        layers[str(index)] = {"kernel": kernel, "bias": jnp.zeros(give)}
    return layers


def value(layers: Any, observations: jax.Array, outputs: Outputs, own: bool) -> jax.Array:
    """``[batch]`` values: of the observations by a network of its own, else of the policy's last hidden state."""
    if own:
        x = observations.reshape(observations.shape[0], -1).astype(jnp.float32)
    else:
        x = (outputs.hidden[:, -1] if outputs.hidden.ndim == 3 else outputs.hidden).astype(jnp.float32)
    for index in range(len(layers)):
        layer = layers[str(index)]
        x = x @ layer["kernel"] + layer["bias"]
        x = jnp.tanh(x) if index < len(layers) - 1 else x
    return x[:, 0]
