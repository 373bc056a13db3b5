import pytest

from benchmarks.cost import Cost, step_cost, weights
from benchmarks.programs import build
from benchmarks.shapes import SHAPES, shape

MARGIN = 0.04
"""Of XLA's count, which has the elementwise work besides the products that the model counts."""


@pytest.mark.parametrize(
    ("size", "method", "forward", "remat"),
    [
        ("small", "full", "auto", "none"),
        ("small", "full", "auto", "full"),
        ("small", "lora", "two_pass", "none"),
        ("small", "lora", "two_pass", "full"),
        ("small", "lora", "merged_backward", "none"),
        ("small", "lora", "merged", "none"),
        ("small", "distillation", "auto", "none"),
        ("small", "full+distillation", "auto", "none"),
        ("small", "soft", "auto", "none"),
        ("small", "dpo", "auto", "none"),
        ("minilm", "full", "auto", "full"),
        ("minilm", "lora", "merged", "none"),
    ],
)
def test_the_cost_model_counts_what_xla_counts(size, method, forward, remat):
    quiet = {"dropout": 0.0, "attention_dropout": 0.0}
    found = shape(size, remat=remat, **quiet)
    counted = build(method, found, forward=forward, abstract=True).lowered().cost_analysis()["flops"]
    assert step_cost(found, method, forward=forward).flops == pytest.approx(counted, rel=MARGIN)


def test_bytes_are_a_lower_bound_of_what_xla_moves():
    found = shape("small")
    for method in ("full", "lora"):
        moved = build(method, found, abstract=True).lowered().compile().cost_analysis()["bytes accessed"]
        assert 0.1 * moved < step_cost(found, method).bytes < moved


def test_the_llama_limits_are_those_of_the_shape():
    found = shape("llama-1b")
    tokens = found.batch * found.time
    assert weights(found) == pytest.approx(1.236e9, rel=0.001)
    assert step_cost(found, "lora", causal=True).flops / tokens == pytest.approx(5.5e9, rel=0.05)
    assert step_cost(found, "full", causal=True).flops / tokens == pytest.approx(7.9e9, rel=0.05)


def test_sizes_are_those_of_the_published_models():
    published = {"smollm2-135m": 134.5e6, "llama-3b": 3.21e9, "llama-8b": 8.03e9}
    for name, count in published.items():
        assert weights(SHAPES[name]) == pytest.approx(count, rel=0.002)


def test_the_floor_is_the_slower_of_computing_and_moving():
    assert Cost(100.0, 10.0).floor(rate=10.0, bandwidth=10.0) == 10.0
    assert Cost(10.0, 100.0).floor(rate=10.0, bandwidth=5.0) == 20.0
