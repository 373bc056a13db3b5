"""Answers that are good or bad by themselves, for KTO."""

from typing import Any

from ft_jax.data.checks import check_columns, check_not_empty
from ft_jax.data.completions import completions, limited, shifted
from ft_jax.data.dataset import Dataset


def judgements(
    dataset: Dataset, tokenizer: Any, *, length: int, too_long: str = "error", end: int | None = None
) -> Dataset:
    """Judged answers as `ft_jax.rl.kto` takes them.

    Each example has ``input_ids``, ``labels`` and ``weights`` of its prompt and answer, ``desirable`` (1 or 0), and the
    part ``mismatched`` with such fields of its prompt beside the answer of the example before it, on which KTO measures
    how far the policy has moved.

    Args:
      dataset: with ``prompt`` and ``completion``, texts or lists of messages, and ``desirable``.
      tokenizer, length, too_long, end: as in `ft_jax.data.preferences`.

    Raises:
      KeyError: a column is missing.
      ValueError: the set is empty or all its answers are judged alike; an example is too long, or has nothing to learn
        after the cut.
    """
    check_columns(check_not_empty(dataset), ("prompt", "completion", "desirable"))
    prompts, answers = dataset.columns["prompt"], list(dataset.columns["completion"])
    judged = [float(bool(one)) for one in dataset.columns["desirable"]]
    if len(set(judged)) < 2:
        raise ValueError(
            f"all {len(judged)} answers are {'desirable' if judged[0] else 'undesirable'}, so there is nothing to tell "
            "apart; give both kinds"
        )
    own = completions(tokenizer, prompts, answers, end)
    other = completions(tokenizer, prompts, [answers[-1], *answers[:-1]], end)
    known = list(zip(own, other, judged, strict=True))
    kept = limited([(one, beside) for one, beside, _ in known], length, too_long)
    if len(kept) < len(known):
        fits = [max(len(one.ids), len(beside.ids)) <= length for one, beside, _ in known]
        judged = [one for one, fit in zip(judged, fits, strict=True) if fit]
    columns: dict[str, list] = {"input_ids": [], "labels": [], "weights": []}
    for one, _ in kept:
        for field, value in shifted(one.ids, one.learned).items():
            columns[field].append(value)
    mismatched = [shifted(beside.ids, beside.learned) for _, beside in kept]
    return Dataset({**columns, "desirable": judged, "mismatched": mismatched})
