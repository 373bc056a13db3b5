"""Random changes of images inside a step: shifts, cutout and RandAugment's operations, in pure jax.

Each function gives an augmentation ``(key, example) -> example`` of one example whose ``images [height, width,
channels]`` have values in [0, 1], for `ft_jax.data.augmentation.augmented` and the semi-supervised methods of
`ft_jax.transfer`.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.data.augmentation import Augmentation
from ft_jax.outside import printable

Image = Float[Array, "height width channels"]


def shift(most: int) -> Augmentation:
    """Moves the image by up to `most` pixels each way, the border repeated: FixMatch's weak augmentation without flips.

    Sohn et al. 2020, arXiv:2001.07685, section 2.3. Digits and letters change their meaning when they are flipped.

    Raises:
      ValueError: a negative number of pixels.
    """
    if most < 0:
        raise ValueError(f"shift moves by up to {most} pixels; give it at least 0")

    def change(key, example):
        image = example["images"]
        padded = jnp.pad(image, ((most, most), (most, most), (0, 0)), mode="edge")
        down, right = jax.random.randint(key, (2,), 0, 2 * most + 1)
        return {**example, "images": jax.lax.dynamic_slice(padded, (down, right, 0), image.shape)}

    return change


def cutout(size: int, fill: float = 0.5) -> Augmentation:
    """Covers a square of `size` pixels around a random pixel, cut at the image's border.

    DeVries and Taylor 2017, "Improved Regularization of Convolutional Neural Networks with Cutout", arXiv:1708.04552.

    Args:
      size: side of the square.
      fill: what covers it.

    Raises:
      ValueError: a side below 1.
    """
    if size < 1:
        raise ValueError(f"cutout covers a square of {size} pixels; give it a side of at least 1")

    def change(key, example):
        image = example["images"]
        height, width, _ = image.shape
        row, column = jax.random.randint(key, (2,), 0, jnp.array([height, width]))
        rows, columns = jnp.arange(height)[:, None], jnp.arange(width)
        top, left = row - size // 2, column - size // 2
        covered = (rows >= top) & (rows < top + size) & (columns >= left) & (columns < left + size)
        return {**example, "images": jnp.where(covered[..., None], jnp.asarray(fill, image.dtype), image)}

    return change


def brightness(image: Image, amount: Array) -> Image:
    """``amount · image``; 1 is the image, 0 black."""
    return jnp.clip(amount * image, 0.0, 1.0)


def grey(image: Image) -> Image:
    """ITU-R 601 luma in every channel; images of one channel are grey."""
    if image.shape[-1] != 3:
        return jnp.broadcast_to(jnp.mean(image, axis=-1, keepdims=True), image.shape)
    weights = jnp.array([299, 587, 114], image.dtype) / 1000
    return jnp.broadcast_to(jnp.sum(image * weights, axis=-1, keepdims=True), image.shape)


def colour(image: Image, amount: Array) -> Image:
    """Between the grey image (0) and the image (1), and beyond."""
    return _blend(grey(image), image, amount)


def contrast(image: Image, amount: Array) -> Image:
    """Between the mean grey (0) and the image (1), and beyond."""
    return _blend(jnp.full_like(image, 1.0) * jnp.mean(grey(image)), image, amount)


def sharpness(image: Image, amount: Array) -> Image:
    """Between a smoothed image (0) and the image (1), and beyond; the border stays."""
    kernel = jnp.array([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]], image.dtype) / 13
    height, width, _ = image.shape
    pieces = [kernel[i, j] * image[i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3)]
    return _blend(image.at[1:-1, 1:-1].set(sum(pieces)), image, amount)


def auto_contrast(image: Image, amount: Array) -> Image:
    """Each channel stretched so that its darkest value is 0 and its brightest 1."""
    low, high = (reduce(image, axis=(0, 1), keepdims=True) for reduce in (jnp.min, jnp.max))
    flat = high <= low
    return jnp.where(flat, image, (image - low) / jnp.where(flat, 1.0, high - low))


def solarize(image: Image, amount: Array) -> Image:
    """Values from `amount` on inverted."""
    return jnp.where(image < amount, image, 1.0 - image)


def posterize(image: Image, amount: Array) -> Image:
    """The first `amount` of 8 bits of every value."""
    step = 2.0 ** (8 - jnp.round(amount))
    return jnp.floor(jnp.round(image * 255) / step) * step / 255


def equalize(image: Image, amount: Array) -> Image:
    """Each channel's values spread so that all of 256 levels are about equally frequent."""

    def channel(values):
        levels = jnp.round(values * 255).astype(jnp.int32)
        counts = jnp.sum(jax.nn.one_hot(levels.reshape(-1), 256, dtype=jnp.int32), axis=0)
        last = counts[255 - jnp.argmax(counts[::-1] > 0)]
        step = (jnp.sum(counts) - last) // 255
        before = jnp.cumsum(counts) - counts
        table = jnp.clip((before + step // 2) // jnp.maximum(step, 1), 0, 255)
        return jnp.where(step == 0, levels, table[levels]) / 255

    return jax.vmap(channel, in_axes=-1, out_axes=-1)(image).astype(image.dtype)


def affine(image: Image, matrix: Float[Array, "2 3"], fill: float = 0.5) -> Image:
    """The image sampled at ``matrix @ (x, y, 1)``, in pixels from its middle, bilinearly; `fill` outside it."""
    height, width, _ = image.shape
    middle = jnp.array([(width - 1) / 2, (height - 1) / 2])
    y, x = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    points = jnp.stack([x - middle[0], y - middle[1], jnp.ones_like(x)], axis=-1) @ matrix.T + middle
    places = [points[..., 1], points[..., 0]]

    def channel(values):
        return jax.scipy.ndimage.map_coordinates(values, places, order=1, mode="constant", cval=fill)

    return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)


def rotate(image: Image, amount: Array) -> Image:
    """By `amount` degrees, against the clock."""
    angle = jnp.deg2rad(amount)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return affine(image, jnp.array([[cos, -sin, 0.0], [sin, cos, 0.0]]))


def shear_x(image: Image, amount: Array) -> Image:
    """Rows moved in proportion to their height."""
    return affine(image, jnp.array([[1.0, amount, 0.0], [0.0, 1.0, 0.0]]))


def shear_y(image: Image, amount: Array) -> Image:
    """Columns moved in proportion to their place."""
    return affine(image, jnp.array([[1.0, 0.0, 0.0], [amount, 1.0, 0.0]]))


def translate_x(image: Image, amount: Array) -> Image:
    """By a share of the width."""
    return affine(image, jnp.array([[1.0, 0.0, amount * image.shape[1]], [0.0, 1.0, 0.0]]))


def translate_y(image: Image, amount: Array) -> Image:
    """By a share of the height."""
    return affine(image, jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, amount * image.shape[0]]]))


OPERATIONS: Mapping[str, tuple[Callable[[Image, Array], Image], float, float]] = {
    "identity": (lambda image, amount: image, 0.0, 1.0),
    "auto_contrast": (auto_contrast, 0.0, 1.0),
    "brightness": (brightness, 0.05, 0.95),
    "colour": (colour, 0.05, 0.95),
    "contrast": (contrast, 0.05, 0.95),
    "equalize": (equalize, 0.0, 1.0),
    "posterize": (posterize, 4.0, 8.0),
    "rotate": (rotate, -30.0, 30.0),
    "sharpness": (sharpness, 0.05, 0.95),
    "shear_x": (shear_x, -0.3, 0.3),
    "shear_y": (shear_y, -0.3, 0.3),
    "solarize": (solarize, 0.0, 1.0),
    "translate_x": (translate_x, -0.3, 0.3),
    "translate_y": (translate_y, -0.3, 0.3),
}
"""The operations and ranges of their amounts, table 12 of Sohn et al. 2020, arXiv:2001.07685."""


def random_operations(count: int = 2, operations: tuple[str, ...] = tuple(OPERATIONS)) -> Augmentation:
    """`count` random operations one after another, each by a random amount: RandAugment as FixMatch uses it.

    Cubuk et al. 2019, "RandAugment", arXiv:1909.13719, with an amount drawn anew from the operation's whole range, as
    in Sohn et al. 2020, arXiv:2001.07685, section 2.3.

    Args:
      count: operations an image.
      operations: which to draw from, names in `OPERATIONS`.

    Raises:
      ValueError: a count below 1 or an unknown operation.

    Example:
      >>> example = {"images": jnp.ones((8, 8, 1)) * 0.25}
      >>> random_operations(2)(jax.random.key(0), example)["images"].shape
      (8, 8, 1)
    """
    if count < 1:
        raise ValueError(f"random_operations makes {count} operations; give it at least 1")
    for operation in operations:
        if operation not in OPERATIONS:
            raise ValueError(f"there is no image operation {printable(operation)}; use some of {', '.join(OPERATIONS)}")
    chosen = [OPERATIONS[name] for name in operations]
    branches = [lambda image, amount, f=f: f(image, amount).astype(image.dtype) for f, _, _ in chosen]
    lows, highs = (jnp.array([one[i] for one in chosen]) for i in (1, 2))

    def change(key, example):
        image = example["images"]
        for one in jax.random.split(key, count):
            which, how = jax.random.split(one)
            index = jax.random.randint(which, (), 0, len(branches))
            amount = jax.random.uniform(how, (), minval=lows[index], maxval=highs[index])
            image = jnp.clip(jax.lax.switch(index, branches, image, amount), 0.0, 1.0)
        return {**example, "images": image}

    return change


def _blend(from_image: Image, image: Image, amount: Array) -> Image:
    return jnp.clip(from_image + amount * (image - from_image), 0.0, 1.0)
