"""Products over groups of rows equal a product a row, under every transformation the methods use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ft_jax import models
from ft_jax.models.networks.parts.grouped import grouped

SIZES = jnp.array([2, 0, 5])
ROWS = jax.random.normal(jax.random.key(1), (7, 4))
KERNELS = 0.5 * jax.random.normal(jax.random.key(0), (3, 4, 5))
SEVERAL_ROWS, SEVERAL_KERNELS = jnp.stack([ROWS, -0.5 * ROWS]), jnp.stack([KERNELS, KERNELS + 0.3, -KERNELS])


def ours(rows, kernels):
    return jnp.sin(grouped(rows, kernels, SIZES)).sum()


def plain(rows, kernels):
    own = kernels[jnp.repeat(jnp.arange(3), SIZES, total_repeat_length=7)]
    return jnp.sin(jnp.einsum("ri,rio->ro", rows, own)).sum()


def gradient(f):
    return jax.grad(f, (0, 1))


def second(f):
    return gradient(lambda *args: sum(jnp.square(leaf).sum() for leaf in gradient(f)(*args)))


def over_layers(f):
    return lambda rows, kernels: jax.lax.scan(lambda total, k: (total + f(rows, k), None), 0.0, kernels)[0]


TRANSFORMED = {
    "gradient": (lambda f: gradient(f), ROWS, KERNELS),
    "members": (lambda f: jax.vmap(gradient(f), (None, 0)), ROWS, SEVERAL_KERNELS),
    "examples": (lambda f: jax.vmap(gradient(f), (0, None)), SEVERAL_ROWS, KERNELS),
    "examples of members": (
        lambda f: jax.vmap(jax.vmap(gradient(f), (0, None)), (None, 0)), SEVERAL_ROWS, SEVERAL_KERNELS,
    ),
    "second derivative": (lambda f: second(jax.checkpoint(f)), ROWS, KERNELS),
    "second derivative of members": (lambda f: jax.vmap(second(f), (None, 0)), ROWS, SEVERAL_KERNELS),
    "scanned": (lambda f: jax.vmap(gradient(over_layers(f)), (0, None)), SEVERAL_ROWS, SEVERAL_KERNELS),
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSFORMED)
def test_grouped_products_transform_as_plain_ones(name):
    transform, rows, kernels = TRANSFORMED[name]
    got, expected = (jax.jit(transform(f))(rows, kernels) for f in (ours, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4), got, expected)


def test_members_that_are_mixtures_of_experts_equal_separate_ones():
    config = models.DecoderConfig(
        vocabulary=32, width=8, layers=1, heads=1, key_value_heads=1, head_width=8, mlp_width=8, experts=3
    )
    keys = jax.random.split(jax.random.key(0), 2)
    members = [models.decoder(config, key).params for key in keys]
    ids = jax.random.randint(jax.random.key(1), (2, 6), 1, 32)

    def loss(params):
        return jnp.square(models.Forward(config)(params, {"input_ids": ids}).logits).mean()

    step = jax.jit(jax.grad(loss))
    together = jax.jit(jax.vmap(jax.grad(loss)))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *members))
    for i, member in enumerate(members):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-5), together, step(member))
