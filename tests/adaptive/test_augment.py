"""Examples are altered as often as the number says, each by draws of its own, and a controller moves the number."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.serving import small_runs
from training.small import experiment

from ft_jax import adaptive
from ft_jax.cli import main
from ft_jax.core import Outputs, compose, make_step
from ft_jax.core.method import Method
from ft_jax.data.augment_text import hide_tokens
from ft_jax.data.augmentation import augmented, sometimes
from ft_jax.training import Budget, EvaluationSpec, Use, fit
from ft_jax.training.own_data import Altered

BATCH = {"x": jax.random.normal(jax.random.key(0), (512, 3)), "labels": jnp.zeros(512, jnp.int32)}


def turned(key, example):
    return {**example, "x": -example["x"]}


def seen(probability, batch=BATCH, **how):
    """The batch that the loss inside sees."""

    def loss(params, batch, context):
        return {"task": jnp.sum(params["model"]["w"] * batch["x"].mean())}, Outputs(hidden=batch["x"])

    spy = Method("spy", after_step=lambda state, event: state.remember("spy", event.batch["x"]))
    method = compose(spy, adaptive.augment(turned, probability=probability))
    program = make_step(loss, optax.sgd(0.0), method, **how)
    state, _ = jax.jit(program.step)(program.init({"w": jnp.ones(())}, jax.random.key(3)), batch)
    return np.asarray(state.memory["spy"])


def test_as_many_are_altered_as_the_probability_says_and_by_their_content_alone():
    assert (seen(0.0) == np.asarray(BATCH["x"])).all() and (seen(1.0) == -np.asarray(BATCH["x"])).all()
    some = (seen(0.3) == -np.asarray(BATCH["x"])).all(axis=1)
    assert abs(some.mean() - 0.3) < 4 * (0.21 / 512) ** 0.5
    backwards = jax.tree.map(lambda x: x[::-1], BATCH)
    assert ((seen(0.3, backwards) == -np.asarray(backwards["x"])).all(axis=1) == some[::-1]).all()


def test_what_is_altered_are_the_augmentations_own_examples():
    batch = {"input_ids": jnp.arange(40).reshape(8, 5)}
    found = augmented(sometimes(hide_tokens(0.5), 0.5), jax.random.key(1), batch)
    hidden = np.asarray(found["attention_mask"]).min(axis=1) == 0
    assert 0 < hidden.sum() < 8  # An example that is let be has a mask of ones.
    with pytest.raises(ValueError, match="keeps their fields, and this one has 'more'"):
        augmented(
            sometimes(lambda key, one: {**one, "more": one["x"]}, 0.5), jax.random.key(1), {"x": jnp.ones((2, 1))}
        )


def test_a_controller_makes_it_stronger_where_a_metric_has_stopped_improving():
    plateau = adaptive.plateau("accuracy", "max", "adaptive.augment.probability", factor=2.0, patience=0)
    made = experiment(
        budget=Budget(steps=12, batch_size=8), evaluation=EvaluationSpec(every=3, metric="accuracy", mode="max")
    )
    made = dataclasses.replace(made, method=(plateau, adaptive.augment(turned, probability=0.1)))
    result = fit(made, quiet=True)
    assert float(result.state.hyper["adaptive.augment"]["probability"]) > 0.1


def test_an_augmentation_is_named_on_a_command_line(tmp_path, capsys):
    folder, file = small_runs.encoder_folder(tmp_path / "encoder"), small_runs.texts(tmp_path / "reviews.csv")
    command = ["run", "classify", "--data.address", str(file), "--model.address", str(folder)]
    command += ["--out", str(tmp_path / "run")]
    method = "+adaptive.augment(Altered('hide_tokens', {'rate': 0.3}), probability=0.2)"
    assert main([*command, "--budget.epochs", "1", "--method", method]) == 0
    kept = (tmp_path / "run" / "experiment.json").read_text()
    assert "adaptive.augment" in kept and "hide_tokens" in kept
    for wrong, why in (("'hide'", "no augmentation 'hide'; the nearest are hide_tokens"), ("'shift'", "most")):
        assert main([*command, "--dry-run", "--method", f"+adaptive.augment(Altered({wrong}))"]) == 2
        assert why in capsys.readouterr().err


def test_special_tokens_are_let_be():
    class Tokenizer:
        all_special_ids = (0, 1)

    parts = type("Parts", (), {"model": type("Model", (), {"tokenizer": Tokenizer, "pad_token": 0})})
    change = Altered("replace_tokens", {"rate": 1.0, "by": 9}).for_run(parts)
    assert change(jax.random.key(0), {"input_ids": jnp.array([0, 5, 1, 6])})["input_ids"].tolist() == [0, 9, 1, 9]


def test_a_chance_that_is_none_is_refused():
    with pytest.raises(ValueError, match="probability 1.5; give it a chance from 0 to 1"):
        adaptive.augment(turned, probability=1.5)
    assert Use("adaptive.augment", augmentation=turned).options["augmentation"] is turned
