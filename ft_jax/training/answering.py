"""A teacher's own answers to prompts, written to a file that a student trains on: ``ft-jax write-answers``."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ft_jax import data, models
from ft_jax.assets.cache import replacing, sha256_of
from ft_jax.data.chats import check_messages, render
from ft_jax.data.teacher_cache import digest_of_tokenizer
from ft_jax.data.tokens import encode, surroundings, without_opening
from ft_jax.models.generation.generate import gives_tokens
from ft_jax.models.generation.sampling import sampling_of
from ft_jax.outside import listed, parse_json, printable, read_json
from ft_jax.training.caching import digest_of_parameters
from ft_jax.training.own_data.rows import tokenizer_of

FORMAT = 1
FIELDS = {"prompts": "file of prompts", "rows": "number of prompts"}
"""What fields of the header are called where their own names would say little."""
HEADER, ANSWERS, UNFINISHED = "teacher.json", "answers.jsonl", "unfinished.jsonl"


@dataclasses.dataclass(frozen=True)
class Header:
    """Of whom answers are, to what, and how they were drawn.

    Attributes:
      teacher, tokenizer, prompts: digests of the teacher's parameters, of its tokenizer and of the prompts' tokens.
      address: where the teacher came from.
      rows: prompts.
      batch_size, max_new_tokens, temperature, top_p, seed: of the writing.
      plain: prompts went without the chat template.
    """

    teacher: str
    tokenizer: str
    prompts: str
    address: str
    rows: int
    batch_size: int
    max_new_tokens: int
    temperature: float
    top_p: float | None
    seed: int
    plain: bool


@dataclasses.dataclass(frozen=True)
class Answered:
    """What was written.

    Attributes:
      file: to train on, ``prompt`` and ``completion`` in each line.
      header: of whom and how; beside the file, with the file's digest.
      kept: answers in the file.
      cut: those that had not ended after the most tokens.
      tokens: of all answers, the end with them.
      fresh: prompts that this call answered.
    """

    file: Path
    header: Header
    kept: int
    cut: int
    tokens: int
    fresh: int


def write_answers(
    address: str,
    teacher: str,
    out: str | Path,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float | None = None,
    seed: int = 0,
    batch_size: int = 8,
    plain: bool = False,
    keep_cut: bool = False,
    compute: str | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Answered:
    """A teacher's answers to prompts: sequence-level knowledge distillation (Kim and Rush 2016, arXiv:1606.07947).

    A student that learns them as it learns any data minimises the cross-entropy to the teacher's distribution over
    whole sequences, approximated by its likeliest one (greedily found; the paper's beam is 5) or by samples. Training
    knows nothing of a teacher, whose tokenizer may be another.

    A prompt is a ``prompt``, a text or messages, or what stands before the last turn of the assistant in ``messages``;
    other columns, answers among them, are not read. Texts are a user's message where the teacher has a chat template,
    and then the file holds messages. A call that was cut off goes on when it is made again, and writes the same.

    Args:
      address: of the prompts, see `ft_jax.data.load`.
      teacher: its address, see `ft_jax.models.load`.
      out: a new folder, or one of the same call.
      max_new_tokens: of an answer.
      temperature: 0 for the likeliest tokens.
      top_p: sample among the likeliest that hold this probability together.
      seed: of sampling; an answer depends on its prompt's place and not on the batch's others.
      batch_size: prompts at once.
      plain: texts go on without the chat template.
      keep_cut: keep answers that had not ended; a student would learn to end there.
      compute: the teacher's compute type; None for float32.
      tell: takes a line after every batch.

    Raises:
      ValueError: a teacher that writes no text, data without prompts, a prompt that is too long, a folder of something
        else, and nothing is written; no answer that ended.
    """
    for name, value in (("batch", batch_size), ("max-new-tokens", max_new_tokens)):
        if value < 1:
            raise ValueError(f"{name} is {value}; give at least 1")
    sampling_of(temperature, key=jax.random.key(seed), top_p=top_p)
    if top_p is not None and temperature == 0:
        raise ValueError(f"top-p is {top_p} of answers that take the likeliest token; give --temperature too")
    asked = prompts_in(data.load(address), address)
    model = models.load(teacher, dtype=compute)
    if not gives_tokens(model.apply):
        raise ValueError(f"{teacher} writes no text; give a teacher that is a decoder, such as hf://org/model")
    tokenizer = tokenizer_of(model)
    if not plain and getattr(tokenizer, "chat_template", None):
        asked = [[{"role": "user", "content": one}] if isinstance(one, str) else one for one in asked]
    ids = _tokens(tokenizer, asked, address)
    _check_lengths(ids, model, max_new_tokens, address)
    header = Header(
        teacher=digest_of_parameters(model.params), tokenizer=digest_of_tokenizer(tokenizer), prompts=_digest(ids),
        address=str(teacher), rows=len(ids), batch_size=batch_size, max_new_tokens=max_new_tokens,
        temperature=temperature, top_p=top_p, seed=seed, plain=plain,
    )  # fmt: skip
    out = Path(out)
    lines = _begin(out, header)
    fresh = len(ids) - len(lines)
    with (out / UNFINISHED).open("a", encoding="utf-8") as file:
        for more in _batches(model, tokenizer, asked, ids, len(lines), header):
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in more)
            file.flush()
            lines += more
            tell(f"{len(lines)} of {len(ids)} prompts answered")
    kept = [line for line in lines if line["ended"] or keep_cut]
    if not kept:
        raise ValueError(
            f"none of {len(lines)} answers ended within {max_new_tokens} tokens; give more --max-new-tokens in a new "
            "folder, or --keep-cut"
        )
    with replacing(out / ANSWERS) as file:
        for line in kept:
            told = {name: line[name] for name in ("prompt", "completion")}
            file.write((json.dumps(told, ensure_ascii=False) + "\n").encode())
    _write_header(out, header, sha256_of(out / ANSWERS))
    cut = sum(not line["ended"] for line in lines)
    return Answered(out / ANSWERS, header, len(kept), cut, sum(line["tokens"] for line in lines), fresh)


def prompts_in(examples: data.Dataset, address: str) -> list[Any]:
    """The prompts of a data set, texts or lists of messages.

    Raises:
      ValueError: it has none, or a conversation has nothing before the assistant's last turn.

    Example:
      >>> turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "what?"}]
      >>> prompts_in(data.Dataset({"messages": [turns]}), "chats.jsonl")
      [[{'role': 'user', 'content': 'hello'}]]
    """
    columns = examples.columns
    if "prompt" in columns:
        found = [one if isinstance(one, str) else list(one) for one in columns["prompt"]]
    elif "messages" in columns:
        found = [_before_answer(list(turns), f"{address} row {row}") for row, turns in enumerate(columns["messages"])]
    else:
        raise ValueError(f"{address} has the columns {listed(columns)} and no prompts; call one 'prompt' or 'messages'")
    for row, one in enumerate(found):
        if not isinstance(one, str):
            check_messages(one, f"{address} row {row}")
        if not one or (isinstance(one, str) and not one.strip()):
            raise ValueError(f"{address} row {row} has an empty prompt; write one, or drop the row")
    return found


def _before_answer(turns: list[Mapping], where: str) -> list[Mapping]:
    check_messages(turns, where)
    last = max((place for place, turn in enumerate(turns) if turn["role"] == "assistant"), default=len(turns))
    return turns[:last]


def _tokens(tokenizer: Any, asked: Sequence[Any], address: str) -> list[np.ndarray]:
    """Each prompt's tokens, as training on prompts and completions has them."""
    chats = [not isinstance(one, str) for one in asked]
    if any(chats) and not all(chats):
        raise ValueError(
            f"{address} has prompts that are messages and others that are texts, which go without a template; make all "
            "of one kind"
        )
    texts = [render(tokenizer, one, generate=True) for one in asked] if any(chats) else list(asked)
    opening, _ = surroundings(tokenizer)
    found = [without_opening(one.ids, opening) for one in encode(tokenizer, texts, special=False)]
    opening = [] if any(chats) else opening  # A template writes it where there is one.
    return [np.asarray([*opening, *ids], np.int32) for ids in found]


def _check_lengths(ids: Sequence[np.ndarray], model: Any, new: int, address: str) -> None:
    longest = max(range(len(ids)), key=lambda row: len(ids[row]))
    most = model.config.positions
    if len(ids[longest]) + new > most:
        raise ValueError(
            f"{address} row {longest} has a prompt of {len(ids[longest])} tokens, and with an answer of {new} that is "
            f"more than the {most} that the teacher takes; shorten it, or give fewer --max-new-tokens"
        )


def _digest(ids: Sequence[np.ndarray]) -> str:
    found = hashlib.sha256()
    for row in ids:
        found.update(f"{len(row)} ".encode() + row.astype("<i8").tobytes())
    return found.hexdigest()


def _begin(out: Path, header: Header) -> list[dict[str, Any]]:
    """Makes a folder, or takes one up: the lines that are there, whole batches of them."""
    path, asked = out / HEADER, dataclasses.asdict(header)
    if not path.is_file():
        if out.exists() and any(out.iterdir()):
            raise ValueError(f"{out} holds other files; give a new folder, or an empty one")
        out.mkdir(parents=True, exist_ok=True)
        _write_header(out, header, None)
    held = read_json(path)
    for field, value in asked.items():
        if held.get(field) != value:
            raise ValueError(
                f"{out} holds answers of another {FIELDS.get(field, field)} ({printable(held.get(field), 20)}, not "
                f"{printable(value, 20)}); give another folder"
            )
    unfinished = out / UNFINISHED
    whole = unfinished.read_bytes().splitlines(keepends=True) if unfinished.is_file() else []
    # A batch that was cut off is written again.
    count = sum(line.endswith(b"\n") for line in whole)
    count = count if count == header.rows else count // header.batch_size * header.batch_size
    with replacing(unfinished) as file:
        file.write(b"".join(whole[:count]))
    return [parse_json(line, f"{unfinished} line {row + 1}") for row, line in enumerate(whole[:count])]


def _write_header(out: Path, header: Header, answers: str | None) -> None:
    with replacing(out / HEADER) as file:
        content = {"format": FORMAT, **dataclasses.asdict(header), "answers": answers}
        file.write(json.dumps(content, indent=1, ensure_ascii=False).encode())


def _batches(model, tokenizer, asked, ids, begin: int, header: Header) -> Iterator[list[dict[str, Any]]]:
    longest, stops, size = max(map(len, ids)), set(model.stop_tokens), header.batch_size
    for first in range(begin, len(ids), size):
        rows = list(range(first, min(first + size, len(ids))))
        # One shape for all, so that one program serves.
        filled = rows + rows[:1] * (size - len(rows))
        real = np.array([[0] * (longest - len(ids[row])) + [1] * len(ids[row]) for row in filled], np.int32)
        given = np.full_like(real, model.pad_token)
        for place, row in enumerate(filled):
            given[place, longest - len(ids[row]) :] = ids[row]
        keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(header.seed), row))(np.array(filled))
        sampling = {} if header.temperature == 0 else {"key": keys, "top_p": header.top_p}
        found = models.generate(
            model, model.params, given, real, max_new_tokens=header.max_new_tokens, temperature=header.temperature,
            **sampling,
        )  # fmt: skip
        tokens, lengths = np.asarray(found.tokens), np.asarray(found.lengths)
        yield [
            _line(tokenizer, asked[row], tokens[place][: lengths[place]].tolist(), stops)
            for place, row in enumerate(rows)
        ]


def _line(tokenizer: Any, prompt: Any, answer: list[int], stops: set[int]) -> dict[str, Any]:
    ended = bool(answer) and answer[-1] in stops
    text = tokenizer.decode(answer[:-1] if ended else answer, skip_special_tokens=True)
    told = text if isinstance(prompt, str) else [{"role": "assistant", "content": text.strip()}]
    return {"prompt": prompt, "completion": told, "ended": ended, "tokens": len(answer)}
