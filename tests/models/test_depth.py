"""A model of some of another's layers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ft_jax import models
from ft_jax.models import with_layers

IDS = {"input_ids": jnp.arange(1, 9).reshape(1, 8)}


@pytest.mark.parametrize("scan", (False, True))
def test_layers_that_are_kept_answer_as_a_model_built_of_them(scan):
    model = models.tiny_decoder(jax.random.key(0), layers=4)
    built = models.tiny_decoder(None, layers=2)
    own = {**model.params, "layers": {"0": model.params["layers"]["1"], "1": model.params["layers"]["3"]}}
    student = with_layers(model.configure(scan=scan), (1, -1))
    assert student.config.layers == 2 and student.config.scan is scan
    np.testing.assert_allclose(
        student.apply(student.params, IDS).logits, built.apply(own, IDS).logits, rtol=1e-5, atol=1e-6
    )


def test_all_layers_in_order_are_the_model_itself_and_another_order_is_not():
    model = models.tiny_encoder(jax.random.key(0), layers=2)
    same, turned = (with_layers(model, layers) for layers in ((0, 1), (1, 0)))
    wanted = model.apply(model.params, IDS).hidden
    np.testing.assert_array_equal(same.apply(same.params, IDS).hidden, wanted)
    assert not np.allclose(turned.apply(turned.params, IDS).hidden, wanted)


def test_shapes_alone_are_chosen_from_too():
    student = with_layers(models.tiny_encoder(None, layers=3), (2,))
    assert student.parameters == models.tiny_encoder(None, layers=1).parameters


def test_layers_keep_their_kind():
    config = dataclasses.replace(
        models.tiny_decoder(None, layers=4).config, window=2, windowed=(True, True, False, True)
    )
    assert with_layers(models.decoder(config, None), (2, 0)).config.windowed == (False, True)


def test_a_layer_with_other_parameters_than_its_place_is_refused():
    config = models.ModernEncoderConfig(32, 16, 3, 2, 32, positions=32, local=(False, True, False))
    model = models.build(config, None)
    assert with_layers(model, (0, 2)).config.local == (False, False)
    with pytest.raises(ValueError, match="layer 1 can't stand in place 0"):
        with_layers(model, (1, 2))


@pytest.mark.parametrize(
    "layers, told", [((), "layers are []"), ((0, 3), "a model that has 3; give some of 0 to 2"), ((1, -2), "each once")]
)
def test_layers_that_are_not_there_are_refused(layers, told):
    with pytest.raises(ValueError, match=told.replace("[", r"\[").replace("]", r"\]")):
        with_layers(models.tiny_encoder(None, layers=3), layers)


def test_a_model_without_a_tower_of_layers_is_refused():
    with pytest.raises(ValueError, match="has no tower of layers"):
        with_layers(models.mlp(models.MLPConfig(), None), (0,))
