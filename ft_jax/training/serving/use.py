"""A kept model at work: classes with probabilities, generated text, scores on a file."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from ft_jax import data, models
from ft_jax.core import compose, make_step
from ft_jax.data.chats import render
from ft_jax.models.generation.generate import gives_tokens
from ft_jax.models.generation.generate import prompts as prompts_of
from ft_jax.models.model import Model
from ft_jax.outside import listed, printable
from ft_jax.training.evaluate import evaluate
from ft_jax.training.metrics import default_metrics
from ft_jax.training.objective import LOSSES, target_of
from ft_jax.training.serving.kept import Kept
from ft_jax.training.specs import check_targets, classes_of

BATCH = 32
MULTIPLE = 16
"""Texts are padded to a multiple of this many tokens, so that few shapes are compiled."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One example's classes.

    Attributes:
      label: the likeliest.
      probabilities: of every class, by name.
      labels: those likelier than not, where an example may have several; None where it has one.
    """

    label: str
    probabilities: Mapping[str, float]
    labels: tuple[str, ...] | None = None

    def as_json(self) -> dict[str, Any]:
        """``label``, or ``labels`` where there may be several, and ``probabilities``."""
        named = {"label": self.label} if self.labels is None else {"labels": list(self.labels)}
        return {**named, "probabilities": {name: round(value, 6) for name, value in self.probabilities.items()}}


def prediction(model: Model, logits: np.ndarray) -> Prediction:
    """What a model's logits ``[classes]`` of one example say: a softmax, or a sigmoid of each of several classes.

    Example:
      >>> several = dataclasses.replace(models.tiny_encoder(None), problem_type="multi_label_classification")
      >>> prediction(several, np.array([2.0, -1.0, 0.0])).labels
      ('0',)
    """
    logits, names = np.asarray(logits, np.float64), class_names(model, len(logits))
    several = model.problem_type == "multi_label_classification"
    # The softmax, and 1 / (1 + exp(-x)), where neither can overflow.
    raised = np.exp(-np.logaddexp(0, -logits)) if several else np.exp(logits - logits.max())
    probabilities = dict(zip(names, map(float, raised if several else raised / raised.sum()), strict=True))
    likely = tuple(name for name, logit in zip(names, logits, strict=True) if logit > 0)
    return Prediction(names[int(logits.argmax())], probabilities, likely if several else None)


def predict(kept: Kept, examples: Sequence[str] | data.Dataset) -> Iterator[Prediction]:
    """Classes of texts, or of a data set's ``text`` or ``images``, as the run's evaluation would have them.

    Raises:
      ValueError: the model gives no classes.
      KeyError: the data set has no column that the model reads.
    """
    model = kept.model
    if model.apply.kind not in (None, "classification") or gives_tokens(model.apply):
        raise ValueError(f"the model of {kept.run} gives no classes for an example; ft-jax generate lets it write")
    if not isinstance(examples, data.Dataset):
        examples = data.Dataset({"text": list(examples)})
    answer = kept.compiled()
    for batch, rows in batches(kept, examples):
        for row in np.asarray(answer(batch).logits)[:rows]:
            yield prediction(model, row)


def numbers(kept: Kept, examples: Sequence[str] | data.Dataset) -> Iterator[np.ndarray]:
    """Embeddings ``[width]`` or a regression's numbers ``[outputs]`` for texts, or a data set's ``text`` or ``images``.

    Raises:
      ValueError: the model gives neither.
      KeyError: the data set has no column that the model reads.
    """
    model = kept.model
    if not gives_numbers(model):
        raise ValueError(f"the model of {kept.run} gives no vectors and no numbers; train one with model.head")
    if not isinstance(examples, data.Dataset):
        examples = data.Dataset({"text": list(examples)})
    answer = kept.compiled()
    for batch, rows in batches(kept, examples):
        outputs = answer(batch)
        yield from np.asarray(outputs.hidden if outputs.unembedding is None else outputs.logits, np.float32)[:rows]


def gives_numbers(model: Model) -> bool:
    """Whether a model's answer to an example is a vector or a number, and no class or text."""
    return model.apply.kind in ("embedding", "regression", "reward") or model.problem_type == "regression"


def length_of(kept: Kept) -> int:
    """The most tokens of an example: those of the run's data, and no more than the model takes."""
    positions = kept.model.config.positions
    return min(kept.reads.get("length") or positions, positions)


def class_names(model: Model, count: int) -> tuple[str, ...]:
    """The names of a model's classes; their numbers where they have none."""
    return tuple(getattr(model, "classes", ())) or tuple(map(str, range(count)))


def batches(kept: Kept, examples: data.Dataset) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Batches of what the model reads and how many of their rows are real; all of them have as many rows."""
    model, images = kept.model, hasattr(kept.model.config, "image")
    column = "images" if images else "text"
    if column not in examples.columns:
        raise KeyError(
            f"the data has the columns {listed(examples.columns)} and the model of {kept.run} reads "
            f"{printable(column)}; rename one of them"
        )
    fields = _fields(kept, examples)
    examples = examples.select(column, *fields)
    rows = min(BATCH, len(examples))
    if not images:
        length = length_of(kept)
        examples = data.tokenize(examples, model.tokenizer, length=length, too_long="truncate")
        examples = examples.select("input_ids", *fields)
    for begin in range(0, len(examples), rows):
        part = [examples[index] for index in range(begin, min(begin + rows, len(examples)))]
        real = len(part)
        part += part[-1:] * (rows - real)
        longest = max(len(one["input_ids"]) for one in part) if not images else 0
        size = None if images else min(-(-longest // MULTIPLE) * MULTIPLE, getattr(model.config, "positions", longest))
        yield data.collate(part, size, model.pad_token), real


def measured(kept: Kept, examples: data.Dataset) -> dict[str, float]:
    """Loss and metrics of the model on a labelled data set, as a run's evaluation has them.

    Raises:
      KeyError: a column is missing.
      ValueError: a label that the head doesn't have.
    """
    model = kept.model
    if model.apply.kind == "embedding":
        raise ValueError(f"the model of {kept.run} gives vectors, which no label measures; ft-jax predict shows them")
    if gives_tokens(model.apply):
        length = length_of(kept)
        examples = data.next_tokens(examples, model.tokenizer, length=length, too_long="truncate")
        shape = {"length": length, "padding": model.pad_token}
    else:
        shape = {}
        examples = _numbered(model, examples)
        if not hasattr(model.config, "image"):
            length = length_of(kept)
            examples = examples.select("text", "labels", *_fields(kept, examples))
            examples = data.tokenize(examples, model.tokenizer, length=length, too_long="truncate")
            shape = {"length": length, "padding": model.pad_token}
    return scores_of(kept, list(data.evaluation_batches(examples, min(BATCH, len(examples)), **shape)))


def scores_of(kept: Kept, sets: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Loss and metrics of the model on labelled batches, through the run's methods."""
    model = kept.model
    target = target_of(model, sets[0])
    around, loss = kept.wrapping, LOSSES[target or "classes"](model.apply)
    program = make_step(loss, optax.identity(), around.method if around else compose())
    state = around.state if around else program.init(model.params, jax.random.key(0))
    scores = evaluate(program, state, sets, default_metrics(sets[0], target))
    return {name: float(value) for name, value in scores.items() if name != "task"}


def _fields(kept: Kept, examples: data.Dataset) -> list[str]:
    """The columns that the run's methods read beside the model's."""
    return [field for field in kept.fields if field in examples.columns]


def _numbered(model: Model, examples: data.Dataset) -> data.Dataset:
    """The labels by the numbers that the model's head gives their names, whatever the file's own order is."""
    examples = data.one_mapping({"the data": examples}, class_names(model, 0), classes_of(model))["the data"]
    return check_targets(examples, model)


def answers(
    kept: Kept,
    prompts: Sequence[str],
    *,
    system: str | None = None,
    plain: bool = False,
    max_new_tokens: int = 128,
    key: jax.Array | None = None,
    fields: Mapping[str, Any] | None = None,
    **sampling: Any,
) -> Iterator[tuple[int, str]]:
    """Text that the model writes after each prompt, piece by piece: ``(index of the prompt, next piece)``.

    A prompt is a user's message where the tokenizer has a chat template, else, or with `plain`, text to go on with.
    Where the run's methods wrap the forward pass a prompt's text is one piece, written by whole passes, see
    `ft_jax.models.generate_through`.

    Args:
      kept: of `load_run`.
      prompts: texts.
      system: a system message before each.
      plain: use no chat template.
      max_new_tokens: at most so many each.
      key: for sampling.
      fields: what the run's methods read of a prompt, one value for each: ``{"adapter": [0, 1]}`` for a bank.
      **sampling: ``temperature``, ``top_k``, ``top_p``, ``min_p`` of `ft_jax.models.generate`.

    Raises:
      ValueError: the model writes no text, has no tokenizer, a prompt is too long, or a field that no method reads.
    """
    model = kept.model
    if not gives_tokens(model.apply):
        raise ValueError(f"the model of {kept.run} writes no text; ft-jax predict asks it for classes")
    if model.tokenizer is None:
        raise ValueError(f"the model of {kept.run} has no tokenizer, so it can't read a prompt")
    chat = not plain and bool(getattr(model.tokenizer, "chat_template", None))
    if system and not chat:
        raise ValueError("a system message needs a chat template, which this prompt goes without; leave it out")
    for name, values in (fields or {}).items():
        if name not in kept.fields or len(values) != len(prompts):
            raise ValueError(
                f"fields has {len(values)} values of {printable(name)} for {len(prompts)} prompts, and the methods of "
                f"{kept.run} read {', '.join(kept.fields) or 'none'}; give a value for each prompt of what they read"
            )
    for index, prompt in enumerate(prompts):
        ids = _prompt(model, prompt, system, chat)
        own = None if key is None else jax.random.fold_in(key, index)
        if kept.wrapping is not None:
            told = {name: np.asarray(values)[index : index + 1] for name, values in (fields or {}).items()}
            yield index, _through(kept, ids, told, max_new_tokens=max_new_tokens, key=own, **sampling)
            continue
        written: list[int] = []
        shown = ""
        for token in models.stream(model, model.params, ids, max_new_tokens=max_new_tokens, key=own, **sampling):
            written.append(token)
            text = model.tokenizer.decode(written, skip_special_tokens=True)
            # A character may take several tokens; what is not whole yet decodes to a replacement character.
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):
                yield index, text[len(shown) :]
                shown = text


def _through(kept: Kept, ids: np.ndarray, fields: Mapping[str, Any], *, max_new_tokens: int, **how: Any) -> str:
    """A prompt's whole text, through the run's methods."""
    model = kept.model
    ids, real = prompts_of(model.apply, ids[None], None, max_new_tokens)
    stops = {"stop_tokens": model.stop_tokens, "pad_token": model.pad_token}
    found = models.generate_through(
        kept.compiled(), ids, real, max_new_tokens=max_new_tokens, fields=fields, **stops, **how
    )
    return model.tokenizer.decode(found.tokens[0][: int(found.lengths[0])], skip_special_tokens=True)


def _prompt(model: Model, prompt: str, system: str | None, chat: bool) -> np.ndarray:
    if not chat:
        return np.asarray(model.tokenizer(prompt)["input_ids"], np.int32)
    messages = [{"role": "system", "content": system}] if system else []
    text = render(model.tokenizer, [*messages, {"role": "user", "content": prompt}], generate=True)
    return np.asarray(model.tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)
