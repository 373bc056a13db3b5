"""What models write, for experiments that show it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ft_jax import models
from ft_jax.models import Model


def likeliest(model: Model, params: Any, prompts: Sequence[Sequence[int]], most: int) -> list[str]:
    """What the model writes after each prompt of tokens, the likeliest token each time, `most` at most."""
    longest = max(map(len, prompts))
    ids = np.array([[model.pad_token] * (longest - len(one)) + list(one) for one in prompts], np.int32)
    real = np.array([[0] * (longest - len(one)) + [1] * len(one) for one in prompts], np.int32)
    found = models.generate(model, params, ids, real, max_new_tokens=most).tokens
    return [model.tokenizer.decode(one, skip_special_tokens=True) for one in np.asarray(found)]


def tell(lines: Iterable[Mapping[str, Any]], out: Path | None) -> None:
    """Prints lines of JSON, and writes them to a file where there is one."""
    told = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    print(told, end="")
    if out is not None:
        out.write_text(told, encoding="utf-8")
