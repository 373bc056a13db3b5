"""What a step must compute and move, from the model's shape and the method's composition.

Two things follow from it for a benchmark's row: the *floor*, the seconds the step would take if the device did nothing
but its products at the measured rate of a large one and moved each array once at the measured bandwidth, and the *gap*,
how many times longer it takes. The count of operations is held against XLA's own in ``tests/benchmarks/test_cost.py``.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from ft_jax.core.params import matches, paths
from ft_jax.core.weights.low_rank import automatic
from ft_jax.models import EncoderConfig

from .shapes import Shape

OPTIMIZER_TRAFFIC = 7
"""Float32 numbers AdamW moves for each that learns: gradient, moments and weight in, moments and weight out."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """Floating-point operations, a multiplication and an addition being two, and bytes to and from memory."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, factor: float) -> "Cost":
        return Cost(self.flops * factor, self.bytes * factor)

    def floor(self, rate: float, bandwidth: float) -> float:
        """The least seconds at `rate` operations and `bandwidth` bytes a second."""
        return max(self.flops / rate, self.bytes / bandwidth)


def projections(shape: Shape) -> dict[str, tuple[int, int]]:
    """``(inputs, outputs)`` of every projection of the layers, by path."""
    params = shape.model(None).params
    leaves = zip(paths(params), jax.tree.leaves(params), strict=True)
    return {
        path: leaf.shape
        for path, leaf in leaves
        if path.endswith("/kernel") and not matches(path, ("head/*", "pooler/*"))
    }


def step_cost(shape: Shape, method: str, *, rank: int = 16, forward: str = "two_pass", causal: bool = False) -> Cost:
    """The cost of one training step.

    Args:
      shape: of model and batch.
      method: of `benchmarks.programs.METHODS`.
      rank, forward: of LoRA.
      causal: whether attention is counted as a kernel that skips what the mask hides would do it, half of it; XLA's
        own products over the whole square are counted otherwise.
    """
    if shape.config.scan:
        # Stacked layers cost what they cost one by one, whose parameters are counted here.
        shape = dataclasses.replace(shape, config=dataclasses.replace(shape.config, scan=False))
    plain = _pass(shape, method, rank, forward, causal, backward=False)
    trained = _pass(shape, method, rank, forward, causal, backward=True)
    if method in ("distillation", "full+distillation", "soft", "composed"):
        # The teacher's forward pass; beside the task, the student's logits and their gradients are made once more.
        again = {"soft": 0, "full+distillation": 3}.get(method, 2)
        return trained + _pass(shape, "head", rank, forward, causal, backward=False) + _unembedding(shape) * again
    if method == "dpo":
        # Both sides of each pair and the reference's pass; a loss of log-probabilities costs what the task's does.
        return (trained + plain) * 2
    return trained


def _pass(shape: Shape, method: str, rank: int, forward: str, causal: bool, backward: bool) -> Cost:
    """One forward pass, or a forward and a backward pass with the update."""
    config, size = shape.config, jnp.dtype(shape.dtype).itemsize
    rows, remat = shape.batch * shape.time, getattr(config, "remat", "none")
    full = method in ("full", "full+distillation")
    adapted = not full and method != "head"
    first = "layers/0/"
    total, learning = Cost(), 0
    for path, (inputs, outputs) in projections(shape).items():
        product = Cost(2 * rows * inputs * outputs, size * (rows * (inputs + outputs) + inputs * outputs))
        # The frozen embeddings want no gradient, so neither do the inputs of the first layer's first projections.
        reached = (
            full or not path.startswith(first) or not path.endswith(("query/kernel", "key/kernel", "value/kernel"))
        )
        passes = 1
        if backward:
            passes += reached + full
            # A pre-norm layer's last product is not needed to go back through it.
            last = path.endswith("down/kernel") and not isinstance(config, EncoderConfig)
            passes += remat == "full" and not last
        total += product * passes
        if adapted:
            exact = shape.dtype == "float32" and method != "qlora"
            chosen = automatic(rows, inputs, outputs, exact) if forward == "auto" else forward
            total += Cost(_adapter_flops(rows, inputs, outputs, rank, chosen, backward, reached, remat))
            learning += rank * (inputs + outputs)
        elif full:
            learning += inputs * outputs
    heads, head_width = config.heads, getattr(config, "head_width", config.width // config.heads)
    square = 4.0 * shape.batch * shape.time**2 * heads * head_width * config.layers * (0.5 if causal else 1.0)
    activations = 4 * size * rows * heads * head_width * config.layers
    again = 1 if remat == "none" else 2
    total += Cost(square, activations) * ((again + 2) if backward else 1)
    if shape.classes is not None:
        learning += config.width * shape.classes
        total += Cost(2.0 * shape.batch * config.width * shape.classes * (3 if backward else 1))
    else:
        total += _unembedding(shape) * ((3 if full else 2) if backward else 1)
        learning += config.vocabulary * config.width if full else 0
    if backward:
        total += Cost(10.0 * learning, 4 * OPTIMIZER_TRAFFIC * learning)
    return total


def _adapter_flops(rows, inputs, outputs, rank, forward, backward, reached, remat) -> float:
    narrow, wide = 2.0 * rows * rank * inputs, 2.0 * rows * rank * outputs
    merge = 2.0 * rank * inputs * outputs
    once = merge if forward == "merged" else narrow + wide
    if not backward:
        return once
    # The gradient of b, of the narrow activations and of a; two passes carry the input's gradient through a too.
    back = 2 * wide + narrow + (narrow if forward == "merged" or (forward == "two_pass" and reached) else 0.0)
    back += merge if forward == "merged_backward" and reached else 0.0
    return once * (2 if remat == "full" else 1) + back


def _unembedding(shape: Shape) -> Cost:
    """One product with the token table or head over all positions."""
    if shape.classes is not None:
        return Cost()
    rows, size, config = shape.batch * shape.time, jnp.dtype(shape.dtype).itemsize, shape.config
    return Cost(2.0 * rows * config.width * config.vocabulary, size * config.width * (rows + config.vocabulary))


def weights(shape: Shape) -> int:
    """Parameters of the model."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shape.model(None).params))
