"""What the experiments of ensembles record, and how adapters of several domains are merged and asked."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.serving import small_runs

from experiments.ensemble import merged_domains, own_tasks
from experiments.ensemble.back_to_backbone import COLUMNS, lines, record
from experiments.study import Claim
from ft_jax import models
from ft_jax.core import materialize
from ft_jax.ensemble import merging


def test_a_circle_takes_the_place_of_the_older_one_of_its_kind_of_data(tmp_path):
    file = tmp_path / "circle.jsonl"
    circles = [{"one network": {**dict.fromkeys((*COLUMNS, "count"), 1.0), "accuracy": score}} for score in (0.5, 0.7)]
    for address in ("mnist:somewhere.npz", "digits", "mnist:elsewhere.npz"):
        record(file, lines(address, 10, 300, circles, [Claim("better", True)]))
    told = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["data"], line.get("stage"), line.get("met")) for line in told] == [
        ("digits", "one network", None), ("digits", None, True), ("mnist", "one network", None), ("mnist", None, True),
    ]  # fmt: skip
    assert told[0]["accuracy"] == [0.5, 0.7] and "somewhere" not in file.read_text()


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """``(model, folders, matrices)`` of two adapters of random numbers on a tiny encoder."""
    folder = tmp_path_factory.mktemp("adapters")
    model = models.with_classifier(
        models.load(small_runs.encoder_folder(folder / "base")), 2, jax.random.key(0)
    ).configure(dropout=0.0)
    module, random, folders, updates = "encoder.layer.0.attention.self.query", np.random.default_rng(0), [], []
    for name in "ab":
        pair = (random.normal(size=(2, 16)), random.normal(size=(16, 2)))
        merging.write_adapter({module: pair}, folder / name)
        folders.append(folder / name)
        updates.append(pair[1] @ pair[0])
    return model, folders, updates


def test_adapters_answer_together_as_each_does_alone(adapters):
    model, folders, _ = adapters
    loaded = [models.load_adapter(folder, model)[1] for folder in folders]
    batch = {"input_ids": np.array([[2, 5, 6, 3]]), "attention_mask": np.ones((1, 4), np.int32)}
    said = merged_domains.answers(model, loaded, [batch])
    for params, own in zip(loaded, said, strict=True):
        np.testing.assert_allclose(own, model.apply(params, batch, None).logits, rtol=1e-4, atol=1e-5)
    assert not np.allclose(said[0], said[1], atol=1e-3)


@pytest.mark.parametrize("way", merged_domains.WAYS)
def test_every_way_merges_at_the_sum_of_the_ranks(way, adapters, tmp_path, monkeypatch):
    model, folders, updates = adapters
    monkeypatch.setattr(merged_domains, "RANK", 2)
    out = merged_domains._merged(way, folders, tmp_path, 0)
    assert json.loads((out / "merge.json").read_text())["ranks"] == [4, 4]
    if way in ("mean", "task arithmetic, λ = 1"):
        both, base = (
            materialize(params["layers"]["0"]["attention"]["query"]["kernel"])
            for params in (models.load_adapter(out, model)[1], model.params)
        )
        share = 0.5 if way == "mean" else 1.0
        np.testing.assert_allclose(both - base, share * sum(updates).T, rtol=1e-3, atol=1e-4)


def test_claims_are_of_the_means_over_domains_and_seeds():
    ways = (merged_domains.ALONE, merged_domains.ALL, merged_domains.FUSED, *merged_domains.WAYS)
    rows = [{way: {"movies": 0.5, "news": 0.7} for way in ways} for _ in range(2)]
    assert [claim.met for claim in merged_domains.claims(rows)] == [False, True, True]
    for row in rows:
        row["mean"] = {"movies": 0.6, "news": 0.7}
        row[merged_domains.ALONE] = {"movies": 0.9, "news": 0.9}
    assert [claim.met for claim in merged_domains.claims(rows)] == [True, True, False]
    told = merged_domains.lines(rows, 200)
    assert told[0]["accuracy"] == {"movies": [0.9, 0.9], "news": [0.9, 0.9]} and len(told) == len(ways) + 3


def test_members_on_their_own_tasks_teach_as_one_model():
    made = own_tasks.stages()
    (taught,) = made[own_tasks.BACK].method
    outline = taught.options["params"].outline(jax.random.key(0))
    assert {leaf.shape[0] for leaf in jax.tree.leaves(outline.params)} == {4}
    images = jnp.ones((3, 1, 384, 1))
    logits = outline.apply(outline.params, {"images": images}).logits
    one = made["members"].model.build(jax.random.key(0))
    # Four that are alike say together what one says.
    alone = jax.nn.log_softmax(one.apply(one.params, {"images": images}, None).logits)
    np.testing.assert_allclose(jax.nn.log_softmax(logits), alone, atol=1e-5)


def test_claims_of_own_tasks_compare_means_over_domains():
    def rows(fused, one, others):
        scores = {"fused by mean": fused, own_tasks.BACK: one, own_tasks.OTHERS: others}
        return {stage: {domain: {"accuracy": score} for domain in "ab"} for stage, score in scores.items()}

    assert [claim.met for claim in own_tasks.claims([rows(0.8, 0.795, 0.7)])] == [True, True]
    assert [claim.met for claim in own_tasks.claims([rows(0.8, 0.7, 0.795)])] == [False, False]
