"""trl's recorded losses and gradients, see tests/golden/record_trl_losses.py."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

RECORD = json.loads((Path(__file__).parents[1] / "golden" / "trl_losses.json").read_text(encoding="utf-8"))
IDS = jnp.array(RECORD["input_ids"])
MASK = jnp.array(RECORD["completion_mask"], jnp.float32)[:, 1:]
PAIRS = IDS.shape[0] // 2


def table(name):
    """Logits ``[4, time, 5]``; ``"logits"`` are those that learn."""
    return jnp.array(RECORD[name], jnp.float32)


def token_log_probabilities(logits):
    """Of the tokens that follow, ``[4, time - 1]``."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), IDS[:, 1:, None], axis=2)[..., 0]


def equals(loss, case, argument=None, tolerance=2e-5):
    """Asserts that a function of the logits has a recorded loss and its gradient."""
    value, gradient = jax.jit(jax.value_and_grad(loss))(table("logits") if argument is None else argument)
    np.testing.assert_allclose(value, case["loss"], rtol=tolerance)
    np.testing.assert_allclose(gradient, np.array(case["gradient"]), rtol=1e-4, atol=tolerance)
