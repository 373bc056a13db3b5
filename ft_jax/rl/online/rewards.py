"""What an answer is worth: functions on the device, or of texts on the host."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class Answers:
    """Answers to prompts, as rewards see them; a prompt's answers are neighbours.

    Attributes:
      tokens: ``[answers, new]``, what follows an answer's end is padding.
      lengths: ``[answers]``, tokens up to and with the stop.
      prompts: ``[answers, time]``, padded on the left.
      prompt_mask: ``[answers, time]``, 1 = real token.
      fields: the prompts' other fields, each ``[answers, ...]``, such as ``answer``.
    """

    tokens: Int[Array, "answers new"]
    lengths: Int[Array, " answers"]
    prompts: Int[Array, "answers time"]
    prompt_mask: Int[Array, "answers time"]
    fields: Mapping[str, Array]


jax.tree_util.register_dataclass(
    Answers, data_fields=["tokens", "lengths", "prompts", "prompt_mask", "fields"], meta_fields=[]
)

Reward = Callable[[Answers], Float[Array, " answers"]]


@dataclasses.dataclass(frozen=True)
class Scored:
    """One answer, as a reward on the host sees it.

    Attributes:
      tokens: ids of the answer, with its stop.
      prompt: ids of the prompt.
      fields: the prompt's other fields.
    """

    tokens: list[int]
    prompt: list[int]
    fields: Mapping[str, Any]


def on_host(score: Callable[[Sequence[Scored]], Sequence[float]], *, faults: str = "stop", name: str = "") -> Reward:
    """A reward that is computed by Python, while the step waits: a checker, a parser, a test that runs.

    Args:
      score: ``answers -> one number each``.
      faults: ``"stop"`` ends the run where it raises or gives what is no number; ``"skip"`` leaves such answers out:
        they count nothing.
      name: for messages; the function's by default.

    Raises:
      ValueError: another `faults`. In the step: a number that is not finite, of which answer, or too many or few.

    Example:
      >>> long = on_host(lambda answers: [len(one.tokens) for one in answers])
      >>> one = Answers(jnp.array([[5, 6, 0]]), jnp.array([2]), jnp.array([[1]]), jnp.array([[1]]), {})
      >>> long(one).tolist()
      [2.0]
    """
    if faults not in ("stop", "skip"):
        raise ValueError(f"faults is {faults!r}; use 'stop' or 'skip'")
    name = name or getattr(score, "__name__", type(score).__name__)

    def called(answers):
        rows = [_scored(answers, row) for row in range(len(answers.lengths))]
        try:
            found = np.asarray(list(score(rows)), np.float32)
        except Exception as error:
            if faults == "stop":
                raise ValueError(
                    f"reward {name!r} raised {type(error).__name__}: {error}; mend it, or set faults='skip'"
                ) from error
            return _one_by_one(score, rows)
        if found.shape != (len(rows),):
            raise ValueError(
                f"reward {name!r} gave {found.shape} numbers for {len(rows)} answers; give one number for each"
            )
        wrong = np.flatnonzero(~np.isfinite(found))
        if wrong.size and faults == "stop":
            row = int(wrong[0])
            raise ValueError(
                f"reward {name!r} is {found[row]} for answer {row}, tokens {rows[row].tokens[:12]} to the prompt "
                f"{rows[row].prompt[-12:]}; give a finite number, or set faults='skip'"
            )
        return np.where(np.isfinite(found), found, np.nan).astype(np.float32)

    def reward(answers):
        shape = jax.ShapeDtypeStruct(answers.lengths.shape, jnp.float32)
        return jax.pure_callback(called, shape, answers, vmap_method="sequential")

    return reward


def _scored(answers, row) -> Scored:
    tokens = np.asarray(answers.tokens[row])[: int(answers.lengths[row])].tolist()
    prompt = np.asarray(answers.prompts[row])[np.asarray(answers.prompt_mask[row]) > 0].tolist()
    return Scored(tokens, prompt, {field: np.asarray(x[row]) for field, x in answers.fields.items()})


def _one_by_one(score, rows):
    found = np.full(len(rows), np.nan, np.float32)
    for index, row in enumerate(rows):
        try:
            found[index] = float(next(iter(score([row]))))
        except Exception:
            continue
    return found


def of_texts(decode: Callable[[Sequence[int]], str], score: Callable[..., float], *, faults: str = "stop") -> Reward:
    """A reward of each answer's text: ``score(text, **fields of the prompt)``.

    Args:
      decode: ids to text, such as ``lambda ids: tokenizer.decode(ids, skip_special_tokens=True)``.
      score: a number for a text; `ft_jax.rl.online.exact_match` is one.
      faults: see `on_host`.
    """

    def every(answers):
        return [score(decode(one.tokens), **one.fields) for one in answers]

    return on_host(every, faults=faults, name=getattr(score, "__name__", "reward"))


def exact_match(text: str, answer: Any, **fields: Any) -> float:
    """1 where the text says the answer and nothing else, but for white space.

    Example:
      >>> exact_match(" 12\\n", 12), exact_match("It is 12", 12)
      (1.0, 0.0)
    """
    return float(text.strip() == str(answer).strip())


def numerically_equal(text: str, answer: Any, tolerance: float = 1e-6, **fields: Any) -> float:
    """1 where the last number in the text is the answer.

    Example:
      >>> numerically_equal("so 3 + 4 = 7.0.", 7), numerically_equal("none", 7)
      (1.0, 0.0)
    """
    import re

    numbers = re.findall(r"-?\d+(?:\.\d+)?", text)
    return float(bool(numbers) and abs(float(numbers[-1]) - float(answer)) <= tolerance)


def matches_tokens(answers: Answers) -> Float[Array, " answers"]:
    """1 where an answer's tokens are those of the field ``answer`` ``[answers, most]`` with 0 after its end.

    On the device; an answer's stop counts as one of its tokens.

    Example:
      >>> two = Answers(jnp.array([[5, 2], [6, 2]]), jnp.array([2, 2]), None, None, {"answer": jnp.array([[5, 2]] * 2)})
      >>> matches_tokens(two).tolist()
      [1.0, 0.0]
    """
    wanted = answers.fields["answer"]
    time = jnp.arange(max(wanted.shape[1], answers.tokens.shape[1]))
    said = jnp.where(time[: answers.tokens.shape[1]] < answers.lengths[:, None], answers.tokens, 0)
    pad = lambda x: jnp.pad(x, ((0, 0), (0, len(time) - x.shape[1])))  # noqa: E731
    return (pad(said) == pad(wanted)).all(axis=1).astype(jnp.float32)


def shortness(most: int) -> Reward:
    """``1 - length / most``: for a format that should be brief.

    Example:
      >>> one = Answers(jnp.zeros((1, 4), jnp.int32), jnp.array([1]), None, None, {})
      >>> shortness(4)(one).tolist()
      [0.75]
    """
    return lambda answers: 1.0 - answers.lengths.astype(jnp.float32) / most
