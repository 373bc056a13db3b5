import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from ft_jax.data.augment_images import OPERATIONS, cutout, random_operations, shift
from ft_jax.data.augmentation import augmented

PIXELS = np.random.default_rng(0).integers(30, 220, (24, 20, 3)).astype(np.uint8)
IMAGE = jnp.asarray(PIXELS, jnp.float32) / 255


def degrees(image, amount):
    return image.rotate(amount, Image.Resampling.BILINEAR, fillcolor=(128, 128, 128))


def sheared(image, amount):
    # Pillow's affine maps run from pixel corners, ours from the image's middle.
    return image.transform(
        image.size, Image.Transform.AFFINE, (1, amount, -amount * image.size[1] / 2, 0, 1, 0),
        Image.Resampling.BILINEAR, fillcolor=(128, 128, 128),
    )  # fmt: skip


PILLOW = {
    "auto_contrast": (lambda image, amount: ImageOps.autocontrast(image), 0.5),
    "brightness": (lambda image, amount: ImageEnhance.Brightness(image).enhance(amount), 0.6),
    "colour": (lambda image, amount: ImageEnhance.Color(image).enhance(amount), 0.3),
    "contrast": (lambda image, amount: ImageEnhance.Contrast(image).enhance(amount), 0.4),
    "equalize": (lambda image, amount: ImageOps.equalize(image), 0.5),
    "posterize": (lambda image, amount: ImageOps.posterize(image, int(amount)), 5.0),
    "sharpness": (lambda image, amount: ImageEnhance.Sharpness(image).enhance(amount), 0.2),
    "solarize": (lambda image, amount: ImageOps.solarize(image, round(amount * 255)), 0.5),
    "rotate": (degrees, 20.0),
    "shear_x": (sheared, 0.25),
}


@pytest.mark.parametrize("name", list(PILLOW))
def test_operations_equal_pillows(name):
    reference, amount = PILLOW[name]
    expected = np.asarray(reference(Image.fromarray(PIXELS), amount), np.float32)
    found = np.asarray(jnp.clip(OPERATIONS[name][0](IMAGE, jnp.float32(amount)), 0, 1)) * 255
    assert np.abs(expected - PIXELS).max() > 3
    inside = slice(5, -5) if name in ("rotate", "shear_x") else slice(None)
    # Pillow rounds to whole levels, a mean of grey or an interpolation by up to two.
    assert np.abs(found - expected)[inside, inside].max() <= 2.0


def test_translation_moves_by_whole_pixels():
    found = OPERATIONS["translate_x"][0](IMAGE, jnp.float32(0.2))
    np.testing.assert_allclose(found[:, :-4], IMAGE[:, 4:], atol=1e-5)
    found = OPERATIONS["translate_y"][0](IMAGE, jnp.float32(-0.25))
    np.testing.assert_allclose(found[6:], IMAGE[:-6], atol=1e-5)


def test_shifts_are_cuts_of_the_padded_image():
    padded = np.pad(np.asarray(IMAGE), ((2, 2), (2, 2), (0, 0)), mode="edge")
    cuts = {padded[i : i + 24, j : j + 20].tobytes() for i in range(5) for j in range(5)}
    keys = jax.random.split(jax.random.key(0), 100)
    found = jax.vmap(shift(2), in_axes=(0, None))(keys, {"images": IMAGE})["images"]
    seen = {np.asarray(image).tobytes() for image in found}
    assert seen <= cuts and len(seen) > 20


def test_cutout_covers_a_square():
    keys = jax.random.split(jax.random.key(0), 50)
    found = jax.vmap(cutout(4, fill=0.0), in_axes=(0, None))(keys, {"images": IMAGE})["images"]
    for image in np.asarray(found):
        rows, columns = np.nonzero((image == 0).all(-1))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) == height * width and 2 <= height <= 4 and 2 <= width <= 4


def test_random_operations_stay_images_and_differ():
    batch = {"images": jnp.stack([IMAGE[..., :1], IMAGE[..., 1:2]]), "labels": jnp.zeros(2, jnp.int32)}
    change = jax.jit(lambda key: augmented(random_operations(2), key, batch)["images"])
    one, other = change(jax.random.key(0)), change(jax.random.key(1))
    assert one.shape == batch["images"].shape and float(one.min()) >= 0 and float(one.max()) <= 1
    assert np.abs(one - other).max() > 0.05
    with pytest.raises(ValueError, match="no image operation 'flip'"):
        random_operations(1, ("flip",))
