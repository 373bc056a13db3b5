from dataclasses import replace
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ft_jax import models
from ft_jax.core import LowRank
from ft_jax.core.adapters import map_operators_with_path
from ft_jax.meta import lorahub
from ft_jax.transfer import lora

ROOT = Path(__file__).parents[2]
KEY = jax.random.key(0)
BASE = jax.random.normal(KEY, (6, 4))


def adapter(seed: int, rank: int = 2):
    one, two = jax.random.split(jax.random.key(seed))
    a, b = jax.random.normal(one, (6, rank)), jax.random.normal(two, (rank, 4))
    return {"up": {"kernel": LowRank(BASE, a, b, jnp.float32(0.5), owner="transfer.lora")}, "head": jnp.ones(3) * seed}


ADAPTERS = {"one": adapter(1), "two": adapter(2), "three": adapter(3)}


def test_factors_are_summed_apart_and_the_penalty_is_that_of_the_mean_weight():
    hub = lorahub(lambda params: jnp.sum((params["head"] - 4.0) ** 2), ADAPTERS, budget=60, penalty=0.05, seed=1)
    weights = np.array(list(hub.weights.values()))
    kernel = hub.params["up"]["kernel"]
    for factor in ("a", "b"):
        stored = np.stack([np.asarray(getattr(one["up"]["kernel"], factor)) for one in ADAPTERS.values()])
        np.testing.assert_allclose(getattr(kernel, factor), np.einsum("n,nij->ij", weights, stored), atol=1e-5)
    assert kernel.base is BASE and kernel.scale == 0.5
    head = weights @ np.array([1.0, 2.0, 3.0])
    assert hub.value == pytest.approx(3 * (head - 4.0) ** 2 + 0.05 * np.abs(weights).mean(), abs=1e-4)
    assert hub.at_zero == pytest.approx(48.0) and hub.value == pytest.approx(hub.values.min()) and hub.value < 1.0
    assert (np.abs(weights) <= 1.5).all() and len(hub.values) >= 60


def test_a_task_that_one_adapter_solves_gets_that_adapter_as_a_grid_over_weights_says():
    x = jax.random.normal(jax.random.key(9), (16, 6))
    wanted = x @ ADAPTERS["two"]["up"]["kernel"].materialize()

    def score(params):
        return jnp.mean((x @ params["up"]["kernel"].materialize() - wanted) ** 2)

    two = {name: ADAPTERS[name] for name in ("one", "two")}
    hub = lorahub(score, two, budget=300, penalty=0.01)
    grid = np.linspace(-1.5, 1.5, 31)
    a, b = (np.stack([np.asarray(getattr(one["up"]["kernel"], f)) for one in two.values()]) for f in "ab")
    best = min(
        (
            np.mean((np.asarray(x) @ (0.5 * np.tensordot(w, a, 1) @ np.tensordot(w, b, 1) + BASE) - wanted) ** 2)
            + 0.01 * np.abs(w).mean()
        )
        for w in np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
    )
    assert hub.value <= best + 1e-3
    assert abs(hub.weights["two"]) > 0.9 and abs(hub.weights["one"]) < 0.1


def test_adapters_in_folders_are_mixed_as_the_page_says_and_the_mixture_is_saved(tmp_path):
    model = models.tiny_encoder(KEY)
    folders = []
    for seed in (1, 2):
        tree = lora(rank=2).surgery({"model": model.params}, jax.random.key(seed))["model"]
        tree = map_operators_with_path(lambda path, one, by=seed: replace(one, b=one.b + by), tree)
        folders.append(str(models.save_adapter(model, tree, tmp_path / str(seed))))
    block = (ROOT / "docs" / "meta.md").read_text().split("```python\n")[2].split("```")[0]
    names = {}
    exec(block, names)
    batch = {"input_ids": jnp.arange(8).reshape(2, 4), "labels": jnp.arange(8).reshape(2, 4)}
    hub = names["mixed"](model, folders, batch)
    assert list(hub.weights) == folders and hub.value <= hub.at_zero
    again = models.load_adapter(models.save_adapter(model, hub.params, tmp_path / "mixed"), model)[1]
    chex.assert_trees_all_close(model.apply(again, batch, None).hidden, model.apply(hub.params, batch, None).hidden)


def test_scores_that_overflow_lose_and_the_search_goes_on():
    score = lambda params: jnp.where(jnp.sum(params["head"]) > 1.0, jnp.nan, -jnp.sum(params["head"]))  # noqa: E731
    hub = lorahub(score, ADAPTERS, budget=80)
    assert np.isnan(hub.values).any() and np.isfinite(hub.value) and hub.value < hub.at_zero


@pytest.mark.parametrize(
    ("adapters", "options", "said"),
    [
        ({"one": ADAPTERS["one"]}, {}, "has 1 adapters"),
        (ADAPTERS, {"budget": 0}, "budget of 0"),
        ({"one": ADAPTERS["one"], "wide": adapter(4, rank=3)}, {}, "'wide' has other shapes than 'one'"),
        ({"one": ADAPTERS["one"], "again": ADAPTERS["one"]}, {}, "are all the same"),
    ],
)
def test_what_can_not_be_mixed_is_refused(adapters, options, said):
    with pytest.raises(ValueError, match=said):
        lorahub(lambda params: jnp.sum(params["head"]), adapters, **options)


def test_a_score_that_is_never_a_number_is_refused():
    with pytest.raises(ValueError, match="nan for every mixture"):
        lorahub(lambda params: jnp.nan * jnp.sum(params["head"]), ADAPTERS, budget=5)
