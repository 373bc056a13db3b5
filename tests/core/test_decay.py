"""Weight decay pulls the matrices of products and nothing else, layers in one scan or not."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax import models
from ft_jax.core import Outputs, compose, make_step, parameters, supervised
from ft_jax.core.decay import decay_mask, decays
from ft_jax.core.params import paths
from ft_jax.training import OptimizerSpec

GOLDEN = Path(__file__).parent.parent / "golden"
FOLDERS = sorted(path.name for path in GOLDEN.glob("tiny_*") if (path / "config.json").is_file())


def shapes(tree):
    return {f"model/{path}": leaf.shape for path, leaf in zip(paths(tree), jax.tree.leaves(tree), strict=True)}


@pytest.mark.parametrize("folder", FOLDERS)
def test_kernels_decay_and_no_other_leaf_of_any_architecture(folder):
    found = shapes(models.load(GOLDEN / folder, abstract=True, tokenizer=False, strict=False).params)
    assert {path for path, shape in found.items() if decays(path, shape)} == {p for p in found if p.endswith("/kernel")}


def test_layers_in_one_scan_decay_as_they_do_apart():
    apart = models.tiny_encoder(None)
    together = shapes(apart.configure(scan=True).params)
    kinds = {
        re.sub(r"/layers/\d+/", "/layers/stacked/", path): decays(path, s) for path, s in shapes(apart.params).items()
    }
    assert {path: decays(path, shape) for path, shape in together.items()} == kinds


@pytest.mark.parametrize(
    ("undecayed", "shrunk"), [(None, {"kernel"}), ((), {"kernel", "bias", "scale"}), (("*/kernel",), {"bias", "scale"})]
)
def test_a_spec_decays_what_its_patterns_leave(undecayed, shrunk):
    params = {"head": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "norm": {"scale": jnp.ones(2)}}
    spec = OptimizerSpec("adamw", 0.1, weight_decay=0.5, undecayed=undecayed).build(10)
    assert spec.hyper == {"learning_rate": 0.1, "weight_decay": 0.5}
    plain = optax.adamw(0.1, weight_decay=0.5, mask=decay_mask(undecayed))
    updates, _ = plain.update(jax.tree.map(jnp.zeros_like, params), plain.init(params), params)
    moved = {
        path.rpartition("/")[2] for path, x in zip(paths(updates), jax.tree.leaves(updates), strict=True) if x.any()
    }
    assert moved == shrunk


def test_a_run_s_optimizer_takes_the_mask():
    def apply(params, batch, key=None):
        return Outputs(hidden=batch["x"], unembedding=params["kernel"], bias=params["bias"])

    spec = OptimizerSpec("adamw", 0.1, weight_decay=0.5).build(10)
    program = make_step(supervised(apply), spec)
    state = program.init({"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}, jax.random.key(0))
    batch = {"x": jnp.zeros((2, 3)), "labels": jnp.array([0, 1])}
    after = parameters(jax.jit(program.step)(state, batch)[0], compose())["model"]
    np.testing.assert_allclose(after["kernel"], 1 - 0.1 * 0.5, rtol=1e-6)
    np.testing.assert_allclose(after["bias"], 1.0, atol=0)


def test_an_optimizer_that_takes_no_mask_refuses_patterns():
    with pytest.raises(ValueError, match="optax.novograd decays all parameters or none"):
        OptimizerSpec("novograd", undecayed=("*/bias",)).check()
