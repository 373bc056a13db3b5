"""Images in folders that are named by their classes."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from ft_jax import assets, data
from ft_jax.data.dataset import Dataset
from ft_jax.outside import refusing
from ft_jax.training.own_data.held_out import check_address, train_and_evaluation
from ft_jax.training.specs import check_targets, classes_of, share
from ft_jax.training.stream import Feed, Stream, Task

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")

MOST_PIXELS = 1 << 26
"""Of an image that is read at all."""


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """Images in folders that are named by their classes, ``address/cat/1.png``, brought to the model's size.

    Attributes:
      address: the folder.
      evaluation: another folder to measure on; None holds back `held_out` of the first.
      held_out: the share that is measured on and not trained on.
      labelled: use so many training images, each class with its share; None for all.
    """

    address: str = ""
    evaluation: str | None = None
    held_out: float = 0.1
    labelled: int | None = None

    def check(self) -> None:
        """Raises ValueError on what can be seen to be wrong without the data."""
        check_address(self, "photos/")

    def outputs(self) -> int:
        """How many classes there are."""
        return len(listed_images(self.address).classes)

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task."""
        train, held = train_and_evaluation(self.address, self.evaluation, self.held_out, listed_images)
        sets = {"the training images": train} | ({} if held is None else {"the evaluation images": held})
        sets = data.one_mapping(sets, getattr(model, "classes", ()), classes_of(model))
        train, held = sets["the training images"], sets.get("the evaluation images")
        train = train if self.labelled is None else data.sample(train, self.labelled, feed.seed)
        read = lambda examples: with_pixels(check_targets(examples, model), model.config.image)  # noqa: E731
        source = data.batches(read(train), feed.batch_size, seed=feed.seed, **share(feed))
        name = Path(self.address).name
        evaluations = {} if held is None else {name: data.evaluation_batches(read(held), feed.batch_size)}
        return (Task(name, source, evaluations, len(train), classes=train.classes),)


def listed_images(address: str) -> Dataset:
    """The files of a folder of folders, ``path`` and ``labels``.

    Raises:
      ValueError: it holds no images, or fewer than two classes.
    """
    folder = Path(assets.resolve(address))
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give one that holds a folder of images for each class")
    found = [
        (str(file), child.name)
        for child in sorted(path for path in folder.iterdir() if path.is_dir())
        for file in sorted(child.iterdir())
        if file.suffix.lower() in PICTURES
    ]
    if len({name for _, name in found}) < 2:
        raise ValueError(
            f"{folder} holds {len(found)} images in folders of their own; give a folder for each of at least two "
            f"classes, with files that end in {', '.join(PICTURES)}"
        )
    return Dataset({"path": [path for path, _ in found], "labels": [name for _, name in found]}).encode_labels()


def with_pixels(examples: Dataset, size: tuple[int, int, int]) -> Dataset:
    """The images of a data set of paths, read when asked for: ``[height, width, channels]`` in [0, 1]."""
    paths = list(examples.column("path"))
    column = data.Computed(len(paths), lambda index: pixels(paths[index], size))
    return Dataset({"images": column, "labels": examples.column("labels")}, examples.classes)


def pixels(path: str, size: tuple[int, int, int]) -> np.ndarray:
    """One image, scaled to a size by bilinear interpolation.

    Raises:
      ValueError: it can't be read, or Pillow is not installed.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ValueError("reading images needs Pillow, which is not installed; pip install 'ft_jax[images]'") from error
    height, width, channels = size
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not there any more; give the folder that has it")
    with refusing(f"{path} can't be read as an image", "correct it or take it away"), Image.open(path) as image:
        # What it claims is known before its pixels are made.
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"it has {image.width} by {image.height} pixels, and {MOST_PIXELS} are read at most")
        image = image.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32).reshape(size) / 255.0
