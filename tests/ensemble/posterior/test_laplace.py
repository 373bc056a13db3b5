"""The last layer's posterior against the exact Hessian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ensemble.small import ROWS, apply, batch, params

from ft_jax.ensemble import last_layer


def test_the_last_layers_covariance_is_the_inverse_hessian():
    outputs = apply(params(), batch(1))
    features, labels = np.asarray(outputs.hidden), batch(1)["labels"]
    ones = jnp.concatenate([outputs.hidden, jnp.ones((ROWS, 1))], axis=1)
    start = jnp.concatenate([params()["head"]["kernel"], jnp.zeros((1, 3))])

    def energy(weights):
        logits = ones @ weights.reshape(start.shape)
        return -jnp.sum(jax.nn.log_softmax(logits)[jnp.arange(ROWS), labels]) + 0.7 / 2 * jnp.sum(weights**2)

    hessian = np.asarray(jax.hessian(energy)(start.reshape(-1)))
    posterior = last_layer(features, outputs.logits, prior_precision=0.7)
    np.testing.assert_allclose(posterior.covariance, np.linalg.inv(hessian), rtol=2e-3, atol=2e-4)
    jacobian = np.kron(np.asarray(ones)[0], np.eye(3))
    np.testing.assert_allclose(
        posterior.variances(features[:1])[0], jacobian @ posterior.covariance @ jacobian.T, rtol=1e-6
    )
    near, far = (np.exp(posterior(s * features[:1], s * np.asarray(outputs.logits)[:1])).max() for s in (1, 1e4))
    assert near < np.exp(jax.nn.log_softmax(outputs.logits[:1])).max() and far < 0.999


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: last_layer(np.zeros((2, 3)), np.zeros((3, 2))), r"features \(2, 3\) and logits \(3, 2\)"),
        (lambda: last_layer(np.zeros((2, 3)), np.zeros((2, 2)), prior_precision=0), "prior_precision is 0"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(make, says):
    with pytest.raises(ValueError, match=says):
        make()
