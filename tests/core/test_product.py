import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ft_jax.core.weights.product import product, saves_products

X, W = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(2, 5, 3), (3, 4)]))
DERIVATIVES = {
    "value": lambda f: f,
    "gradients": lambda f: jax.grad(lambda x, w: jnp.sin(f(x, w)).sum(), argnums=(0, 1)),
    "tangents": lambda f: lambda x, w: jax.jvp(f, (x, w), (jnp.cos(x), jnp.sin(w))),
    "second derivatives": lambda f: jax.hessian(lambda x, w: jnp.sin(f(x, w)).sum(), argnums=(0, 1)),
    "members": lambda f: jax.vmap(jax.grad(lambda x, w: jnp.sin(f(x, w)).sum(), argnums=(0, 1)), (None, 0)),
    "gradients of members": lambda f: jax.grad(
        lambda x, w: jnp.sin(jax.vmap(f, (0, None))(x, w)).sum(), argnums=(0, 1)
    ),
    "narrowing": lambda f: jax.grad(lambda x, w: jnp.sin(f(x @ w, w.T)).sum(), argnums=(0, 1)),
    "one vector": lambda f: jax.grad(lambda x, w: jnp.sin(f(x[0, 0], w)).sum(), argnums=(0, 1)),
}


@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_it_is_the_matrix_product_in_every_derivative(derivative):
    w = jnp.stack([W, 2 * W]) if derivative == "members" else W
    found, wanted = (jax.jit(DERIVATIVES[derivative](f))(X, w) for f in (product, jnp.matmul))
    jax.tree.map(lambda f, w: np.testing.assert_allclose(f, w, rtol=1e-5, atol=1e-5), found, wanted)


def test_the_weights_gradient_turns_over_the_narrower_side():
    def gradient(x, w):
        return str(jax.make_jaxpr(jax.grad(lambda w: jnp.sin(product(x, w)).sum()))(w))

    assert "f32[3,4] = dot_general" in gradient(X, W) and "transpose" not in gradient(X, W)
    narrowing = jnp.ones((5, 4)), jnp.ones((4, 2))
    assert "f32[2,4] = dot_general" in gradient(*narrowing) and "transpose" in gradient(*narrowing)


@pytest.mark.parametrize(("policy", "products"), [(saves_products, 2), (None, 3)])
def test_rematerialising_with_the_policy_computes_no_product_again(policy, products, monkeypatch):
    monkeypatch.setattr("ft_jax.core.weights.product.CHEAP_INPUTS", 1)

    def loss(x):
        return jax.checkpoint(lambda x: product(jnp.sin(product(x, W)), W.T).sum(), policy=policy)(jnp.sin(x))

    forward_and_backward = str(jax.make_jaxpr(jax.grad(loss))(X))
    assert forward_and_backward.count("= product") == products


@pytest.mark.parametrize("multiply", [product, jnp.matmul])
@pytest.mark.parametrize(("inputs", "kept"), [(512, 1), (16, 0)])
def test_the_policy_keeps_products_over_many_inputs_alone(multiply, inputs, kept):
    x, w = jnp.ones((8, inputs)), jnp.ones((inputs, 512))
    _, back = jax.vjp(jax.checkpoint(lambda x: jnp.sin(multiply(jnp.sin(x), w)), policy=saves_products), x)
    residuals = [leaf for leaf in jax.tree.leaves(back) if leaf is not w and leaf.shape == (8, 512)]
    assert len(residuals) == kept + (inputs == 512)  # the argument itself is as large
