"""Pairs of answers of which people prefer one, for DPO and its relatives."""

from typing import Any

import numpy as np

from ft_jax.data.checks import check_columns, check_not_empty
from ft_jax.data.completions import completions, limited, shifted
from ft_jax.data.dataset import Dataset


def preferences(
    dataset: Dataset, tokenizer: Any, *, length: int, too_long: str = "error", end: int | None = None
) -> Dataset:
    """Pairs as batches have them: ``{"chosen": fields, "rejected": fields}``, weights on the answers' tokens.

    Both have ``input_ids``, ``labels`` (``labels[t] = input_ids[t + 1]``, -1 on the prompt) and ``weights``. In a
    batch, chosen and rejected are padded to one length.

    Args:
      dataset: with ``prompt``, ``chosen`` and ``rejected``: texts, or lists of messages.
      tokenizer: a ``transformers`` tokenizer, or, for texts, a ``tokenizers.Tokenizer``.
      length: the most tokens of prompt and answer.
      too_long: ``"error"``, ``"truncate"`` (the answer's end is cut) or ``"drop"`` (the pair).
      end: id of the end token; by default the tokenizer's own where it has one.

    Raises:
      KeyError: a column is missing.
      ValueError: the set is empty; the two answers of a pair are the same, also after a cut; an example is too long, or
        has nothing to learn after the cut.
    """
    check_columns(check_not_empty(dataset), ("prompt", "chosen", "rejected"))
    prompts = dataset.columns["prompt"]
    chosen = completions(tokenizer, prompts, dataset.columns["chosen"], end)
    rejected = completions(tokenizer, prompts, dataset.columns["rejected"], end)
    pairs = limited(list(zip(chosen, rejected, strict=True)), length, too_long)
    for place, (better, worse) in enumerate(pairs):
        if np.array_equal(better.ids, worse.ids):
            raise ValueError(
                f"pair {place} has the same answer on both sides, which prefers nothing; drop the pair"
                + (", or raise length" if len(better.ids) == length else "")
            )
    columns = {
        "chosen": [shifted(pair[0].ids, pair[0].learned) for pair in pairs],
        "rejected": [shifted(pair[1].ids, pair[1].learned) for pair in pairs],
    }
    return Dataset(columns)
