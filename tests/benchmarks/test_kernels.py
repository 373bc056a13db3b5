import jax
import jax.numpy as jnp
import pytest

from benchmarks.kernels import Kernel, kernels


def of(function, *arguments):
    """The kernels of a program as XLA compiled it."""
    return kernels(jax.jit(function).lower(*arguments).compile().as_text())


def total(found, what):
    return sum(kernel.runs * getattr(kernel, what) for kernel in found)


def test_a_product_computes_and_moves_what_its_shapes_say():
    a, b = jnp.ones((64, 32), jnp.bfloat16), jnp.ones((32, 16), jnp.bfloat16)
    text = """HloModule m

ENTRY %main (a: bf16[64,32], b: bf16[32,16]) -> bf16[64,16] {
  %a = bf16[64,32]{1,0} parameter(0)
  %b = bf16[32,16]{1,0} parameter(1)
  ROOT %dot.1 = bf16[64,16]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""  # fmt: skip
    assert kernels(text) == [Kernel("dot", "", 2.0 * 64 * 32 * 16, 2.0 * (64 * 32 + 32 * 16 + 64 * 16), 1)]
    assert total(of(lambda a, b: a @ b, a, b), "flops") == 2 * 64 * 32 * 16


def test_a_fusion_reads_its_operands_and_writes_its_result():
    x = jnp.ones((256, 128))
    assert total(of(lambda x, y: jnp.tanh(x) * y + 1.0, x, x), "bytes") == pytest.approx(3 * x.nbytes, rel=0.01)


def test_a_loop_counts_each_of_its_runs():
    x, w = jnp.ones((8, 32)), jnp.ones((50, 32, 32))
    found = of(lambda x, w: jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0], x, w)
    assert total(found, "flops") == 50 * 2 * 8 * 32 * 32
    # Each run reads its own slice of the weights and not the stack.
    assert total(found, "bytes") < 6 * w.nbytes


def test_the_floor_is_the_slower_of_computing_and_moving():
    kernel = Kernel("dot", "", flops=100.0, bytes=10.0, runs=3)
    assert kernel.floor(rate=10.0, bandwidth=10.0) == 30.0 and kernel.floor(rate=1000.0, bandwidth=10.0) == 3.0


def test_a_loop_that_may_end_at_any_time_runs_as_often_as_is_said():
    x = jnp.ones((8, 8))

    def until_large(x):
        return jax.lax.while_loop(lambda y: y.sum() < 1e6, lambda y: y @ y, x)

    text = jax.jit(until_large).lower(x).compile().as_text()
    for unknown in (1, 7):
        assert total(kernels(text, unknown), "flops") == unknown * 2 * 8**3
