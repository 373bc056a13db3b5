"""Data specs for one's own files: labelled texts, chats, completions, documents, preferences and folders of images."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ft_jax import assets, data
from ft_jax.data.collate import lengths
from ft_jax.data.dataset import Dataset, digest_fraction
from ft_jax.data.description import summary
from ft_jax.outside import listed
from ft_jax.training.specs import check_targets, classes_of, share, short
from ft_jax.training.stream import Feed, Stream, Task

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


def check_address(spec: Any, example: str) -> None:
    """Raises ValueError where a spec names no data set."""
    if not spec.address:
        raise ValueError(f"data.address names no data; give it, such as --data.address {example}")
    if not 0.0 <= spec.held_out < 1.0:
        raise ValueError(f"data.held_out is {spec.held_out}; give a share from 0 to below 1")


def train_and_evaluation(
    address: str, evaluation: str | None, held_out: float, load: Callable[[str], Dataset] = data.load
) -> tuple[Dataset, Dataset | None]:
    """Examples to train on and those to measure on.

    The second are another data set's, or a share of the first's, chosen by a digest of what an example says: equal
    examples stay together, and the same file is cut the same way everywhere.

    Args:
      address: of the data.
      evaluation: of the other data set, or None.
      held_out: the share; 0 for no evaluation.
      load: from an address to a data set.

    Raises:
      ValueError: too few examples to hold any back.
    """
    whole = load(address)
    if evaluation is not None:
        return whole, load(evaluation)
    if held_out == 0.0:
        return whole, None
    places = np.array([digest_fraction(key) for key in contents(whole)])
    kept = places >= held_out
    if kept.all() or not kept.any():
        # A handful of examples, none of which fell on one of the sides: the lowest one is held back.
        kept = places > places.min()
    if not kept.any():
        raise ValueError(
            f"{address} has {len(whole)} examples that say the same, so none can be held back; give "
            "data.evaluation another file, or data.held_out 0"
        )
    return whole.take(np.flatnonzero(kept)), whole.take(np.flatnonzero(~kept))


def one_task(spec: Any, train: Dataset, held: Dataset | None, tokens: Callable, model: Any, feed: Feed) -> Stream:
    """One task: examples as ``tokens(examples, model, address)`` makes them, shuffled, beside those held back."""
    made, name = tokens(train, model, spec.address), short(spec.address)
    other = None if held is None else tokens(held, model, spec.evaluation or spec.address)
    # One shape for all batches, no longer than the longest example needs.
    longest = max(longest_of(one) for one in (made, other) if one is not None)
    shape = {"length": min(-(-longest // MULTIPLE) * MULTIPLE, room(spec, model)), "padding": model.pad_token}
    source = data.batches(made, feed.batch_size, seed=feed.seed, **shape, **share(feed))
    sets = {} if other is None else {name: data.evaluation_batches(other, feed.batch_size, **shape)}
    return (Task(name, source, sets, len(made), classes=train.classes, columns=summary(train)),)


MULTIPLE = 8
"""Rows of a batch have a multiple of so many tokens."""


def room(spec: Any, model: Any) -> int:
    """The most tokens of an example: the spec's, and no more than the model takes."""
    positions = getattr(getattr(model, "config", None), "positions", None)
    return min(spec.length, positions) if isinstance(positions, int) else spec.length


def longest_of(tokens: Dataset) -> int:
    """The most tokens that an example of a tokenized data set has, in any of its parts."""
    return max(lengths(list(tokens)))


def in_pieces(tokens: Dataset, length: int) -> Dataset:
    """Next-token examples cut into pieces of at most `length` tokens; the last of a piece still learns what follows."""
    if all(len(ids) <= length for ids in tokens.column("input_ids")):
        return tokens
    pieces = [
        {name: np.asarray(column)[begin : begin + length] for name, column in one.items()}
        for one in tokens
        for begin in range(0, len(one["input_ids"]), length)
    ]
    return Dataset({name: [piece[name] for piece in pieces] for name in tokens.columns})


LONGEST = 2**31 - 1
"""Tokens of a document that is cut into pieces."""


def contents(examples: Dataset) -> list[str]:
    """What every example says, as text."""
    return [json.dumps(example, sort_keys=True, default=_plain) for example in examples]


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Texts with classes, in one file or two; the classes are those of the data, by their names.

    Attributes:
      address: a file with columns ``text`` and ``label``, or another address, see `ft_jax.data.load`.
      evaluation: another file to measure on; None holds back `held_out` of the first.
      held_out: the share of the file that is measured on and not trained on.
      length: the most tokens of a text, and no more than the model takes.
      too_long: ``"truncate"`` or ``"error"`` where a text has more.
      labelled: use so many training examples, each class with its share; None for all.
      quotes: whether ``"`` encloses fields of a csv or tsv, see `ft_jax.data.from_file`.
    """

    address: str = ""
    evaluation: str | None = None
    held_out: float = 0.1
    length: int = 128
    too_long: str = "truncate"
    labelled: int | None = None
    quotes: bool | None = None

    def check(self) -> None:
        """Raises ValueError on what can be seen to be wrong without the data."""
        check_address(self, "reviews.csv")

    def outputs(self) -> int:
        """How many classes the data has; 1 where it has numbers to predict."""
        train, held = self._sets((), None)
        labels = np.asarray(train.column("labels"))
        if labels.dtype.kind == "f":
            return labels.shape[1] if labels.ndim == 2 else 1
        return len(train.classes) or 1 + max(int(np.max(one.column("labels"))) for one in (train, held) if one)

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task."""
        train, held = self._sets(getattr(model, "classes", ()), classes_of(model))
        train = train if self.labelled is None else data.sample(train, self.labelled, feed.seed)
        return one_task(self, train, held, self._tokens, model, feed)

    def _sets(self, classes, outputs):
        load = lambda address: data.load(address, None, self.quotes)  # noqa: E731
        train, held = train_and_evaluation(self.address, self.evaluation, self.held_out, load)
        sets = {"the training texts": train} | ({} if held is None else {"the evaluation texts": held})
        sets = {name: data.check_columns(one, ("text", "labels"), self.address) for name, one in sets.items()}
        sets = data.one_mapping(sets, classes, outputs)
        return sets["the training texts"], sets.get("the evaluation texts")

    def _tokens(self, examples, model, address):
        examples = check_targets(examples, model).select("text", "labels")
        return data.tokenize(examples, _tokenizer(model), length=room(self, model), too_long=self.too_long)


@dataclasses.dataclass(frozen=True)
class Written:
    """Text to learn to write, in one file or two: what its columns say decides what is learned.

    ``messages`` (the assistant's turns are learned), ``prompt`` and ``completion`` (the completion is), or ``text``
    (all of it is), see `ft_jax.data.next_tokens`.

    Attributes:
      address: a file, or another address, see `ft_jax.data.load`.
      evaluation: another file to measure on; None holds back `held_out` of the first.
      held_out: the share of the file that is measured on and not trained on.
      length: the most tokens of an example, and no more than the model takes.
      too_long: ``"truncate"``, ``"drop"`` or ``"error"`` where one has more.
      learn_prompt: whether prompts are learned too.
      packed: several examples in one row of `length` tokens, that do not see each other.
    """

    address: str = ""
    evaluation: str | None = None
    held_out: float = 0.1
    length: int = 512
    too_long: str = "truncate"
    learn_prompt: bool = False
    packed: bool = False

    forms: ClassVar[tuple[tuple[str, ...], ...]] = (("messages",), ("prompt", "completion"), ("text",))

    def check(self) -> None:
        """Raises ValueError on what can be seen to be wrong without the data."""
        check_address(self, "chat.jsonl")

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task."""
        train, held = train_and_evaluation(self.address, self.evaluation, self.held_out)
        return one_task(self, train, held, self._tokens, model, feed)

    def _tokens(self, examples, model, address):
        if not any(set(form) <= examples.columns.keys() for form in self.forms):
            wanted = ", or ".join(" and ".join(map(repr, form)) for form in self.forms)
            raise ValueError(
                f"{address} has the columns {listed(examples.columns)} and {type(self).__name__} reads "
                f"{wanted}; rename some"
            )
        told = data.next_tokens(
            examples,
            _tokenizer(model),
            length=self._most(model),
            too_long=self.too_long,
            learn_prompt=self.learn_prompt,
        )
        told = in_pieces(told, room(self, model))
        return data.pack(told, room(self, model), model.pad_token) if self.packed else told

    def _most(self, model) -> int:
        """The most tokens of an example."""
        return room(self, model)


@dataclasses.dataclass(frozen=True)
class Chats(Written):
    """Conversations: ``messages``, of which the assistant's turns are learned; see `Written`."""

    forms: ClassVar[tuple[tuple[str, ...], ...]] = (("messages",),)


@dataclasses.dataclass(frozen=True)
class Completions(Written):
    """Prompts with what should follow: ``prompt`` and ``completion``, the completion is learned; see `Written`."""

    forms: ClassVar[tuple[tuple[str, ...], ...]] = (("prompt", "completion"),)

    def check(self) -> None:
        """Raises ValueError on what can be seen to be wrong without the data."""
        check_address(self, "answers.jsonl")


@dataclasses.dataclass(frozen=True)
class Documents(Written):
    """Plain ``text``, all of which is learned, long ones in pieces and short ones together in rows; see `Written`."""

    packed: bool = True

    forms: ClassVar[tuple[tuple[str, ...], ...]] = (("text",),)

    def check(self) -> None:
        """Raises ValueError on what can be seen to be wrong without the data."""
        check_address(self, "articles.jsonl")

    def _most(self, model) -> int:
        return LONGEST


@dataclasses.dataclass(frozen=True)
class Preferences:
    """Pairs of answers to one prompt, of which one is preferred: ``prompt``, ``chosen`` and ``rejected``.

    Attributes:
      address: a file, or another address, see `ft_jax.data.load`.
      evaluation: another file to measure on; None holds back `held_out` of the first.
      held_out: the share of the file that is measured on and not trained on.
      length: the most tokens of prompt and answer.
      too_long: ``"truncate"``, ``"drop"`` or ``"error"`` where they have more.
    """

    address: str = ""
    evaluation: str | None = None
    held_out: float = 0.1
    length: int = 512
    too_long: str = "truncate"

    def check(self) -> None:
        """Raises ValueError on what can be seen to be wrong without the data."""
        check_address(self, "pairs.jsonl")

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task."""
        train, held = train_and_evaluation(self.address, self.evaluation, self.held_out)
        return one_task(self, train, held, self._tokens, model, feed)

    def _tokens(self, examples, model, address):
        data.check_columns(examples, ("prompt", "chosen", "rejected"), address)
        return data.preferences(examples, _tokenizer(model), length=room(self, model), too_long=self.too_long)


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
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError as error:
        raise ValueError("reading images needs Pillow, which is not installed; pip install 'ft_jax[images]'") from error
    height, width, channels = size
    try:
        with Image.open(path) as image:
            image = image.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} can't be read as an image ({error}); correct it or take it away") from error
    return np.asarray(image, np.float32).reshape(size) / 255.0


def _tokenizer(model: Any) -> Any:
    if getattr(model, "tokenizer", None) is None:
        raise ValueError("the model has no tokenizer, so it can't read texts; give model.address one that has")
    return model.tokenizer


SHAPES: Mapping[str, type] = {
    one.__name__: one for one in (Labelled, Chats, Completions, Documents, Written, Preferences, ImageFolder)
}
"""Every spec for one's own files, by name."""
