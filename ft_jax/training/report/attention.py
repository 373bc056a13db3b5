"""Attention maps that a run keeps, and how its report draws them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import markupsafe
import numpy as np

from ft_jax.outside import one_line, read_json
from ft_jax.training.run_folder import write_json

FILE = "attention.json"
MOST_EXAMPLES, MOST_TOKENS = 4, 48
KIND = "attention/"


def keep_maps(result: Any, batch: Mapping[str, Any], tokens: Sequence[Sequence[str]] | None = None) -> Path:
    """Writes the attention maps of a trained model on some examples into its run folder, for the report.

    Kept are the maps of every layer, averaged over the heads, of at most four examples and 48 tokens each.

    Args:
      result: of `ft_jax.training.fit`; its run folder gets ``attention.json``.
      batch: examples as the model reads them.
      tokens: what to write at each token; by default the tokenizer's tokens, else their numbers.

    Returns:
      The file, written whole or not at all.

    Raises:
      ValueError: a model whose outputs have no attention maps.
    """
    model = result.model
    collect = getattr(model.config, "collect", None)
    if collect is None:
        raise ValueError(f"{type(model.config).__name__} has no attention maps to keep; use a transformer")
    few = {name: x[:MOST_EXAMPLES] for name, x in batch.items() if np.ndim(x)}
    apply = model.configure(collect=tuple({*collect, "attention"})).apply
    states = jax.jit(lambda params, batch: apply(params, batch).states)(result.params, few)
    maps = {name.removeprefix(KIND): np.asarray(x).mean(axis=1) for name, x in states.items() if name.startswith(KIND)}
    if not maps:
        raise ValueError("this model's outputs have no attention maps to keep; its methods may take them away")
    examples = []
    for row, names in enumerate(_names(few, model.tokenizer, maps, tokens)):
        # Virtual tokens and prefixes come first, padding last.
        time, kept = np.shape(few["input_ids"])[1] if "input_ids" in few else len(names), min(len(names), MOST_TOKENS)
        own = {layer: x[row][-time:, -time:][:kept, :kept].astype(float) for layer, x in maps.items()}
        own = {layer: np.round(x, 3).tolist() for layer, x in own.items()}
        examples.append({"tokens": list(names)[:MOST_TOKENS], "maps": own})
    path = Path(result.run) / FILE
    write_json(path, {"examples": examples})
    return path


def _names(batch, tokenizer, maps, tokens):
    if tokens is not None:
        return list(tokens)[:MOST_EXAMPLES]
    if "input_ids" not in batch:
        any_map = next(iter(maps.values()))
        return [[str(at) for at in range(any_map.shape[-1])]] * any_map.shape[0]
    ids = np.asarray(batch["input_ids"])
    real = np.asarray(batch.get("attention_mask", np.ones_like(ids))) > 0
    rows = [row[kept] if kept[: kept.sum()].all() else row for row, kept in zip(ids, real, strict=True)]
    if tokenizer is None:
        return [[str(token) for token in row] for row in rows]
    return [tokenizer.convert_ids_to_tokens(row.tolist()) for row in rows]


def attention_section(folder: Path) -> list[dict[str, Any]]:
    """What the report shows of a run's maps: by example its text and a picture a layer; nothing where none were kept.

    Raises:
      ValueError: a file that does not hold maps.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return []
    try:
        examples = read_json(path)["examples"]
        return [
            {
                "text": " ".join(example["tokens"]),
                "maps": [
                    {"layer": layer, "svg": markupsafe.Markup(draw_map(example["maps"][layer], example["tokens"]))}
                    for layer in sorted(example["maps"], key=lambda layer: layer.zfill(9))
                ],
            }
            for example in examples
        ]
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not hold attention maps ({one_line(error)}); remove it or keep the maps again"
        ) from None


def draw_map(rows: Sequence[Sequence[float]], tokens: Sequence[str], cell: int = 9) -> str:
    """An SVG of one map: a row a query, a column a key, darker where more attention goes.

    Example:
      >>> draw_map([[1.0, 0.0], [0.25, 0.75]], ["a", "b"]).count("<rect")
      3
    """
    side = cell * len(rows)
    top = max((max(row) for row in rows), default=1.0) or 1.0
    squares = []
    for y, row in enumerate(rows):
        for x, value in enumerate(row):
            if value / top < 0.01:
                continue
            label = f"{tokens[y]} to {tokens[x]}: {value:.2f}"
            squares.append(
                f'<rect x="{x * cell}" y="{y * cell}" width="{cell}" height="{cell}" fill="var(--s0)" '
                f'fill-opacity="{value / top:.2f}"><title>{markupsafe.escape(label)}</title></rect>'
            )
    return (
        f'<svg viewBox="0 0 {side} {side}" width="{min(side, 260)}" role="img" '
        f'aria-label="Attention among {len(rows)} tokens" style="border:1px solid var(--line)">{"".join(squares)}</svg>'
    )
