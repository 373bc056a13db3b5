"""Rules against recorded references (``tests/golden/record_merging.py``) and slower obvious versions."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_jax.core.weights import LowRank
from ft_jax.ensemble import merging
from ft_jax.ensemble.merging.rule import Piece
from ft_jax.ensemble.merging.sparse import keep, magnitude_at, magnitude_probabilities, trim
from ft_jax.ensemble.merging.task_arithmetic import total

DENSITY, WEIGHTS = 0.4, np.array([1.0, 0.5, 2.0])


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(Path(__file__).parents[2] / "golden" / "merging.npz"))


def piece(golden, weights=WEIGHTS, count=3, models=None, name="w"):
    models = golden["models"].astype(np.float32)[:count] if models is None else models
    return Piece(name, models, np.asarray(weights)[:count], golden["base"].astype(np.float32))


@pytest.mark.parametrize(
    ("rule", "recorded"),
    [
        (merging.uniform(), "linear"),
        (merging.task_arithmetic(scale=0.7), "task_arithmetic"),
        (merging.ties(density=DENSITY), "whole_ties"),
        (merging.ties(density=DENSITY), "ties"),
        (merging.model_stock(), "model_stock"),
        (merging.slerp(0.3), "whole_slerp"),
        (merging.slerp(0.3), "slerp"),
    ],
)
def test_a_rule_gives_mergekits_tensor(golden, rule, recorded):
    merged = rule(piece(golden, count=2 if rule.name == "slerp" else 3))
    np.testing.assert_allclose(merged, golden[f"mergekit_{recorded}"], atol=2e-6)


def test_what_is_dropped_is_made_up_for_as_mergekit_and_as_peft_do(golden):
    vector, mask = (golden["models"][0] - golden["base"]).astype(np.float32), golden["mergekit_mask"] > 0
    for rescale, recorded in (("none", "kept"), ("l1", "kept_l1")):
        np.testing.assert_allclose(keep(vector, mask, rescale, DENSITY), golden[f"mergekit_{recorded}"], atol=2e-6)
    vectors = piece(golden).vectors
    kept = np.stack([keep(v, m, "density", DENSITY) for v, m in zip(vectors, golden["peft_masks"] > 0, strict=True)])
    np.testing.assert_allclose(total(kept, np.ones(3), False, False), golden["peft_dare_linear"], atol=2e-6)
    np.testing.assert_allclose(total(kept, np.ones(3), True, True), golden["peft_dare_ties"], atol=2e-6)


def test_ties_gives_pefts_task_vector(golden):
    merged = merging.ties(density=DENSITY)(piece(golden, np.ones(3)))
    np.testing.assert_allclose(merged - golden["base"], golden["peft_ties"], atol=2e-6)


def test_dellas_chances_are_mergekits(golden):
    chances = magnitude_probabilities(piece(golden).vectors[0], DENSITY, 0.2)
    np.testing.assert_allclose(chances, golden["mergekit_della_chances"], atol=1e-6)


def test_rules_over_singular_vectors_give_fusion_benchs_tensors(golden):
    given_piece = piece(golden, np.ones(3))
    row = Piece("b", given_piece.models[:, 0], np.ones(3), given_piece.base[0])
    for rule in (merging.tsv(), merging.iso_c()):
        for part, key in ((given_piece, "w"), (row, "b")):
            np.testing.assert_allclose(rule(part) - part.base, golden[f"fusion_bench_{rule.name}_{key}"], atol=5e-6)


@pytest.mark.parametrize("rule", [merging.dare(0.3), merging.della(0.3, 0.2, elect=False, normalize=False)])
def test_dropping_keeps_the_expectation(rule):
    """Over many tensors drawn alike, the mean update is the task vector, to four standard errors."""
    generator = np.random.default_rng(0)
    vector = np.float32(generator.normal(size=(1, 40)))
    base = np.zeros(40, np.float32)
    drawn = np.stack([rule(Piece(f"t{k}", vector, np.ones(1), base)) for k in range(3000)])
    error = np.abs(drawn.mean(0) - vector[0]) / np.maximum(drawn.std(0) / np.sqrt(3000), 1e-6)
    assert error.max() < 4.5, error.max()


def test_draws_depend_on_the_tensor_the_model_and_the_seed_and_on_nothing_else(golden):
    def merged(seed=0, **more):
        return merging.dare(0.5, seed=seed)(piece(golden, **more))

    np.testing.assert_array_equal(merged(), merged())
    assert not np.array_equal(merged(), merged(seed=1))
    assert not np.array_equal(merged(), merged(name="v"))
    masks = [piece(golden).generator(0, model).random(8) for model in (0, 1)]
    assert not np.array_equal(*masks)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.floats(0.01, 1.0), st.integers(0, 99))
def test_the_magnitude_over_many_tensors_is_that_of_all_in_one(sizes, density, seed):
    generator = np.random.default_rng(seed)
    vectors = [np.float32(generator.normal(size=size)).round(1) for size in sizes]
    together = np.sort(np.abs(np.concatenate(vectors)))[::-1]
    expected = together[max(1, int(density * len(together))) - 1]
    assert magnitude_at(lambda: iter(vectors), density) == expected


def test_trimming_over_the_model_keeps_the_largest_of_all_tensors():
    base = {"small": np.zeros(4, np.float32), "large": np.zeros(4, np.float32)}
    model = {"small": np.float32([1, 2, 3, 4]) / 100, "large": np.float32([1, 2, 3, 4])}
    by_model = merging.merge_trees(merging.ties(density=0.5, trim_over="model"), [model], base=base)
    by_tensor = merging.merge_trees(merging.ties(density=0.5), [model], base=base)
    assert not by_model["small"].any() and np.array_equal(by_model["large"], model["large"])
    assert by_tensor["small"].any() and not by_tensor["large"][:2].any()


def test_fisher_merging_is_the_mode_of_the_product_of_gaussians():
    """Against the maximum of the sum of the models' quadratics, found by solving them entry by entry."""
    generator = np.random.default_rng(3)
    models, fishers = generator.normal(size=(2, 3, 5)), generator.gamma(1.0, size=(2, 3, 5))
    merged = merging.merge_trees(
        merging.fisher(1e-9), [{"w": m} for m in models], fishers=[{"w": f} for f in fishers], weights=(0.3, 0.7)
    )["w"]
    slope = sum(w * f * (merged - m) for w, f, m in zip((0.3, 0.7), fishers, models, strict=True))
    np.testing.assert_allclose(slope, 0.0, atol=1e-7)


def test_weights_that_no_task_depended_on_are_averaged():
    models = [{"w": np.zeros(3)}, {"w": np.ones(3)}]
    merged = merging.merge_trees(merging.fisher(), models, fishers=[{"w": np.zeros(3)}] * 2)
    np.testing.assert_allclose(merged["w"], 0.5)


def test_the_moving_average_is_the_recursion():
    values, decay = np.random.default_rng(0).normal(size=5), 0.7
    average = values[0]
    for value in values[1:]:
        average = decay * average + (1 - decay) * value
    merged = merging.merge_trees(merging.ema(decay), [{"w": np.array([v])} for v in values])["w"]
    np.testing.assert_allclose(merged, average)


RESHAPE = {"della", "iso_c", "model_stock", "slerp"}
"""Rules that thin out whatever their options, flatten the spectrum, or need two models."""


@pytest.mark.parametrize("name", sorted(set(merging.RULES) - RESHAPE))
def test_one_model_merges_to_itself_where_the_rule_thins_nothing_out(name, golden):
    whole = {"density": 1.0}
    options = {"ties": whole, "dare": whole, "knots": whole, "tsv": {"share": 1.0}}.get(name, {})
    model = {"w": golden["models"][0]}
    needs = {"base": {"w": golden["base"]}} if merging.RULES[name](**options).base else {}
    needs |= {"fishers": [{"w": np.abs(golden["base"])}]} if name == "fisher" else {}
    merged = merging.merge_trees(merging.RULES[name](**options), [model], **needs)
    np.testing.assert_allclose(merged["w"], model["w"], atol=1e-6)


def test_trees_keep_their_types_and_what_is_no_number_to_average():
    trees = [{"w": jnp.full((2,), float(k), jnp.bfloat16), "ids": jnp.arange(3)} for k in (0, 1)]
    merged = merging.merge_trees(merging.uniform(), trees)
    assert merged["w"].dtype == jnp.bfloat16 and isinstance(merged["w"], jax.Array)
    np.testing.assert_array_equal(merged["ids"], jnp.arange(3))
    with pytest.raises(ValueError, match=r"'ids' is int32 and differs between model 0 and model 1"):
        merging.merge_trees(merging.uniform(), [trees[0], {**trees[1], "ids": jnp.arange(3) + 1}])


def test_a_greedy_soup_drops_the_model_that_makes_it_worse():
    values = np.array([0.0, 2.0, 10.0])
    asked = []

    def score(kept):
        asked.append(kept)
        return -abs(values[list(kept)].mean() - 1.0)

    soup = merging.greedy_soup(3, score)
    assert set(soup.kept) == {0, 1} and soup.score == 0.0
    assert ((*soup.kept, 2), -3.0) in soup.tried and asked[:3] == [(0,), (1,), (2,)]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: merging.merge_trees(merging.ties(), [{"w": np.ones(2)}]), "ties merges differences from a base"),
        (lambda: merging.merge_trees(merging.slerp(), [{"w": np.ones(2)}] * 3), "exactly 2 models and was given 3"),
        (lambda: merging.merge_trees(merging.model_stock(), [{"w": np.ones(2)}], base={"w": np.ones(2)}), "at least 2"),
        (lambda: merging.merge_trees(merging.fisher(), [{"w": np.ones(2)}]), "pass fishers="),
        (lambda: merging.merge_trees(merging.uniform(), [{"w": np.ones(2)}] * 2, weights=(1,)), "give 2 finite"),
        (lambda: merging.merge_trees(merging.uniform(), [{"w": np.ones(2)}] * 2, weights=(1, -1)), "sum to 0"),
        (
            lambda: merging.merge_trees(merging.uniform(), [{"w": np.ones(2)}, {"w": np.ones(3)}]),
            r"'w' has shape \(2,\) in model 0 and \(3,\) in model 1",
        ),
        (
            lambda: merging.merge_trees(merging.uniform(), [{"w": np.ones(2)}, {"v": np.ones(2)}]),
            "model 0 has a tensor 'w' and model 1 has none",
        ),
        (
            lambda: merging.merge_trees(
                merging.uniform(), [{"w": LowRank(jnp.ones((2, 2)), jnp.ones((2, 1)), jnp.ones((1, 2)), 1.0, "lora")}]
            ),
            "model 0 has a LowRank at w",
        ),
        (lambda: merging.ties(density=1.5), "ties has density 1.5"),
        (lambda: merging.ties(trim_over="layer"), "can't trim over 'layer'"),
        (lambda: merging.dare(rescale="l2"), "can't rescale by 'l2'"),
        (lambda: merging.slerp(2.0), "slerp has t 2.0"),
        (lambda: merging.greedy_soup(0, lambda kept: 0.0), "a soup of 0 models"),
        (lambda: merging.greedy_soup(1, lambda kept: float("nan")), "needs a finite number"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_a_sentence(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_trim_keeps_exactly_the_share_among_equals():
    assert trim(np.ones(10), 0.3).sum() == 3
