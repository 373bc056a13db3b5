"""Images of one's own with what is to be written to them: captions, or answers to questions about them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ft_jax import assets, data
from ft_jax.data.completions import IGNORED
from ft_jax.data.dataset import Dataset
from ft_jax.data.media import image_places
from ft_jax.data.modalities import PRESENT
from ft_jax.data.tables import read_table
from ft_jax.data.tokens import encode, ended, surroundings
from ft_jax.models.networks.vlm import VisionLanguageConfig
from ft_jax.outside import listed, printable
from ft_jax.training.own_data.held_out import check_address, contents, held_back
from ft_jax.training.own_data.rows import MULTIPLE, tokenizer_of
from ft_jax.training.own_data.together import TEXTS, left_out
from ft_jax.training.specs import share, short
from ft_jax.training.stream import Feed, Stream, Task

MARK = "<image>"


@dataclasses.dataclass(frozen=True)
class Captions:
    """A table whose rows name an image and hold the text to write to it; the loss is on that text alone.

    Attributes:
      address: a table with the columns ``image`` (a path beside it) and ``text`` (or ``caption``).
      evaluation: another one to measure on; None holds back `held_out` of the first.
      held_out: the share that is measured on and not trained on.
      image, text: the columns, where they are called otherwise.
      prompt: what stands before the text, with ``<image>`` once where the image's tokens go.
      question: a column whose text takes the place of ``{question}`` in the prompt; empty for none.
      length: the most tokens of a prompt and a text, beside the image's.
      broken: what becomes of an example whose image is missing or broken: ``"refuse"`` all, or ``"skip"`` it and tell
        how many there were.
    """

    address: str = ""
    evaluation: str | None = None
    held_out: float = 0.1
    image: str = "image"
    text: str = ""
    prompt: str = MARK
    question: str = ""
    length: int = 64
    broken: str = "refuse"

    def check(self) -> None:
        """Raises ValueError on what can be seen to be wrong without the data."""
        check_address(self, "captions.jsonl")
        image_places(self.prompt, 1)
        if self.broken not in ("refuse", "skip"):
            raise ValueError(f"data.broken is {printable(self.broken)}; use 'refuse' or 'skip'")
        if bool(self.question) != ("{question}" in self.prompt):
            raise ValueError(
                f"data.question is {printable(self.question)} and data.prompt is {printable(self.prompt)}; name a "
                "column and write {question} where its text goes, or neither"
            )

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task."""
        if not isinstance(getattr(model, "config", None), VisionLanguageConfig):
            raise ValueError(
                f"{type(getattr(model, 'config', model)).__name__} writes nothing to images; give the run a "
                "vision-language model, such as that of own/caption, a LLaVA or a PaliGemma"
            )
        train, keys, notes = self._read(self.address, model)
        if self.evaluation is not None:
            held, _, more = self._read(self.evaluation, model)
            notes = [*notes, *more]
        else:
            away = held_back(keys, self.held_out, self.address)
            train, held = (train.take(np.flatnonzero(rows)) for rows in (~away, away))
        longest = max(len(ids) for one in (train, held) for ids in one.column("input_ids"))
        shape = {"length": -(-longest // MULTIPLE) * MULTIPLE, "padding": model.pad_token}
        shape["length"] = min(shape["length"], max(longest, model.config.language.positions))
        source = data.batches(train, feed.batch_size, seed=feed.seed, **shape, **share(feed))
        name = short(self.address)
        measured = f"held-out {name}" if self.evaluation is None else short(self.evaluation)
        sets = {measured: data.evaluation_batches(held, feed.batch_size, **shape)} if len(held) else {}
        return (Task(name, source, sets, len(train), notes=tuple(notes)),)

    def _read(self, address: str, model: Any) -> tuple[Dataset, list[str], list[str]]:
        *size, channels = model.config.vision.image
        parts = {"image": data.Image(self.image, tuple(size), channels)}
        texts = tuple(dict.fromkeys((self.text or TEXTS[0], *TEXTS)))
        collected = data.referenced(address, parts, broken=self.broken, texts=texts)
        found = collected.dataset
        column = self.text or next((name for name in TEXTS if name in found.columns), TEXTS[0])
        for name in filter(None, (column, self.question)):
            if name not in found.columns:
                raise KeyError(
                    f"{address} has no column {printable(name)}; it has {listed(found.columns)}; name it with "
                    f"--data.{'text' if name == column else 'question'}"
                )
            for label, value in zip(collected.examples, found.column(name), strict=True):
                if not isinstance(value, str) or not value.strip():
                    raise ValueError(
                        f"{address}, example {label} has {printable(value, 40)} in {printable(name)}, which is no "
                        "text; fill it, or drop the row"
                    )
        seen = found.column("image")
        for place, label in enumerate(collected.examples):
            if not seen[place][PRESENT]:
                raise ValueError(f"{address}, example {label} has no image to write to; name one, or drop the row")
        questions = found.column(self.question) if self.question else [""] * len(found)
        made = [
            example(model, prompt_of(self.prompt, question), text, self.length)
            for question, text in zip(questions, found.column(column), strict=True)
        ]
        images = data.Computed(len(found), lambda index: seen[index]["images"])
        columns = {name: [one[name] for one in made] for name in ("input_ids", "labels", "weights")}
        table = read_table(assets.resolve(address)).columns
        rows = Dataset({name: [values[row] for row in collected.examples] for name, values in table.items()})
        return Dataset({"images": images, **columns}), contents(rows), left_out(collected, address)


def prompt_of(prompt: str, question: str = "") -> str:
    """The prompt with its question; its image's place is the prompt's, whatever the question says.

    Example:
      >>> prompt_of("<image> {question}", "What is <image>?")
      '<image> What is < image>?'
    """
    return prompt.replace("{question}", question.replace(MARK, "< image>"))


def prompt_tokens(model: Any, prompt: str) -> np.ndarray:
    """A prompt's ids, as many image tokens in the image's place as the model's images have.

    Raises:
      ValueError: it has no place for its image, or more than one.
    """
    image_places(prompt, 1)
    tokenizer, config = tokenizer_of(model), model.config
    before, _, after = prompt.partition(MARK)
    opening, _ = surroundings(tokenizer)
    head, tail = (_plain(tokenizer, text) for text in (before.rstrip(" "), after))
    places = np.full(config.image_tokens, config.image_token, np.int32)
    # Where nothing stands before the image, the text's opening token comes after it, as PaliGemma has it.
    parts = (opening, head, places, tail) if before else (places, opening, tail)
    return np.concatenate([np.asarray(part, np.int32) for part in parts])


def example(model: Any, prompt: str, text: str, length: int) -> Mapping[str, np.ndarray]:
    """A prompt and its text as tokens that each predict the next, of which the text's alone count.

    Raises:
      ValueError: the prompt leaves no room for a text.
    """
    asked, config = prompt_tokens(model, prompt), model.config
    end = model.stop_tokens[0] if model.stop_tokens else None
    said = ended(_plain(tokenizer_of(model), text), end)
    room = min(length + config.image_tokens, config.language.positions) - len(asked)
    if room < 1:
        raise ValueError(
            f"the prompt {printable(prompt, 40)} takes {len(asked)} tokens with its image and leaves no room for a "
            "text; shorten it, or raise data.length"
        )
    ids = np.concatenate([asked, said[:room]]).astype(np.int32)
    weights = (np.arange(len(ids) - 1) >= len(asked) - 1).astype(np.float32)
    return {"input_ids": ids[:-1], "labels": np.where(weights > 0, ids[1:], IGNORED), "weights": weights}


def _plain(tokenizer: Any, text: str) -> Sequence[int]:
    return encode(tokenizer, [text], special=False)[0].ids if text else np.zeros(0, np.int32)
