"""Image networks and pairs of towers give what transformers gives (recorded by tests/golden/record_vision.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.tiny_checkpoints import assert_gradients_equal, assert_round_trip, recorded

from ft_jax import models


def run(model, batch, key=None):
    return jax.jit(model.apply)(model.params, batch, key)


def test_vit_equals_the_reference(tmp_path):
    case = recorded("tiny_vit")
    outputs = run(case.model.configure(collect=("hidden", "attention")), case.batch())
    for i in range(2):
        np.testing.assert_allclose(outputs.states[f"layers/{i}"], case.output(f"hidden/{i + 1}"), atol=2e-5)
    np.testing.assert_allclose(outputs.logits, case.output("logits"), atol=2e-5)
    assert outputs.states["attention/0"].shape == (2, 4, 17, 17)
    assert_gradients_equal(case, lambda params: case.model.apply(params, case.batch()).logits)
    assert_round_trip(case, tmp_path / "saved")


@pytest.mark.parametrize("name", ["tiny_dinov2", "tiny_dinov2_swiglu"])
def test_dinov2_equals_the_reference(name, tmp_path):
    case = recorded(name)
    patches = case.model.configure(tokens=True, collect=("hidden",))
    outputs, batch = run(patches, case.batch()), case.batch()
    np.testing.assert_allclose(outputs.states["layers/0"], case.output("hidden/1"), atol=2e-5)
    np.testing.assert_allclose(outputs.hidden, case.output("last"), atol=2e-5)
    np.testing.assert_allclose(run(case.model, batch).hidden, case.output("last")[:, 0], atol=2e-5)
    assert_gradients_equal(case, lambda params: patches.apply(params, batch).hidden)
    assert_round_trip(case, tmp_path / "saved")


def test_masked_patches_are_replaced_by_the_mask_token():
    case = recorded("tiny_dinov2")
    batch = case.batch() | {"patch_mask": jnp.zeros((2, 16), jnp.int32).at[:, 3].set(1)}
    plain, masked = run(case.model, case.batch()).hidden, run(case.model, batch).hidden
    assert not np.allclose(plain, masked, atol=1e-3)
    pixels = batch["images"].at[:, 0:4, 12:16].set(0.3)
    np.testing.assert_allclose(run(case.model, batch | {"images": pixels}).hidden, masked, atol=1e-6)
    with pytest.raises(ValueError, match="no mask token; build it with mask_token=True"):
        model = recorded("tiny_vit").model
        model.apply(model.params, batch)


def test_pixels_are_normalised_as_asked():
    case = recorded("tiny_vit")
    half = (0.5, 0.5, 0.5)
    normal = case.model.configure(mean=half, deviation=half)
    shifted = {"images": case.batch()["images"] * 0.5 + 0.5}
    np.testing.assert_allclose(run(normal, shifted).logits, case.output("logits"), atol=3e-5)


@pytest.fixture(scope="module", params=["tiny_clip", "tiny_siglip"])
def towers(request):
    return recorded(request.param)


def test_both_towers_equal_the_reference(towers, tmp_path):
    batch = towers.batch()
    outputs = run(towers.model, batch)
    np.testing.assert_allclose(outputs.logits, towers.output("logits"), atol=2e-5)
    np.testing.assert_allclose(outputs.states["image_features"], towers.output("image"), atol=2e-5)
    np.testing.assert_allclose(outputs.states["text_features"], towers.output("text"), atol=2e-5)
    assert_gradients_equal(towers, lambda params: towers.model.apply(params, batch).logits)
    assert_round_trip(towers, tmp_path / "saved")


def test_one_side_alone_gives_its_features(towers):
    batch = towers.batch()
    image = run(towers.model, {"images": batch.pop("images")})
    np.testing.assert_allclose(image.hidden, towers.output("image"), atol=2e-5)
    np.testing.assert_allclose(run(towers.model, batch).hidden, towers.output("text"), atol=2e-5)
    assert image.unembedding is None


def test_towers_share_their_configuration_and_are_named_in_the_states(towers):
    model = towers.model.configure(dtype="bfloat16", collect=("hidden", "attention"))
    states = jax.eval_shape(model.apply, model.params, towers.batch()).states
    assert {f"{side}/{what}/1" for side in ("vision", "text") for what in ("layers", "attention")} <= set(states)
    assert states["vision/layers/0"].dtype == states["text/layers/0"].dtype == jnp.bfloat16


def test_an_image_tower_takes_a_classifier(towers):
    model = models.with_classifier(towers.model, 5, jax.random.key(0))
    outputs = jax.eval_shape(model.apply, model.params, {"images": towers.batch()["images"]})
    assert outputs.hidden.shape == towers.output("image").shape and model.params["head"]["kernel"].shape[1] == 5


def test_sigmoid_contrastive_is_lowest_where_pairs_are_alike():
    logits = jnp.array([[5.0, -5.0], [-5.0, 5.0]])
    signs = np.array([[1, -1], [-1, 1]])
    expected = sum(np.log1p(np.exp(-signs * np.asarray(logits))).ravel()) / 2
    np.testing.assert_allclose(models.sigmoid_contrastive(logits), expected, rtol=1e-5)
    assert models.sigmoid_contrastive(logits) < models.sigmoid_contrastive(-logits)


def test_images_of_another_size_and_missing_fields_are_refused(towers):
    with pytest.raises(ValueError, match=r"images has shape \(1, 8, 8, 3\) and the model takes \[batch, 16, 16, 3\]"):
        towers.model.apply(towers.model.params, {"images": jnp.ones((1, 8, 8, 3))})
    with pytest.raises(KeyError, match="batch has no 'images' or 'input_ids'"):
        towers.model.apply(towers.model.params, {"pixels": jnp.ones((1, 8, 8, 3))})
    with pytest.raises(ValueError, match="13 tokens a sequence and the model takes 12"):
        towers.model.apply(towers.model.params, {"input_ids": jnp.ones((1, 13), jnp.int32)})
