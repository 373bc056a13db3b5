import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention.tiny import BATCH, DECODER, MASK, started

from ft_jax import attention
from ft_jax.models import MLPConfig, mlp
from ft_jax.training.report.attention import attention_section, keep_maps


@dataclasses.dataclass(frozen=True)
class Trained:
    """What `keep_maps` needs of a result."""

    model: Any
    params: Any
    run: Any


def test_maps_of_real_tokens_are_kept_and_drawn(tmp_path):
    _, params = started(attention.prefix_tuning(2))
    batch = {"input_ids": BATCH["input_ids"], "attention_mask": MASK}
    path = keep_maps(Trained(DECODER, params, tmp_path), batch)
    kept = json.loads(path.read_text())["examples"]
    assert [len(example["tokens"]) for example in kept] == [8, 8, 6, 3]
    model = DECODER.configure(collect=("attention",))
    expected = model.apply(params, batch).states["attention/1"].mean(axis=1)[0][:, 2:]
    np.testing.assert_allclose(kept[0]["maps"]["1"], expected, atol=6e-4)
    shown = attention_section(tmp_path)
    assert [[own["layer"] for own in example["maps"]] for example in shown] == [["0", "1"]] * 4
    assert str(shown[3]["maps"][0]["svg"]).count("<title>") == 6


def test_tokens_are_escaped(tmp_path):
    batch = {"input_ids": jnp.zeros((1, 2), jnp.int32)}
    keep_maps(Trained(DECODER, DECODER.params, tmp_path), batch, [["<script>", "b"]])
    assert "<script>" not in str(attention_section(tmp_path)[0]["maps"][0]["svg"])


def test_a_run_without_maps_shows_none(tmp_path):
    assert attention_section(tmp_path) == []


def test_what_cannot_be_drawn_is_refused(tmp_path):
    (tmp_path / "attention.json").write_text('{"maps": []}')
    with pytest.raises(ValueError, match="does not hold attention maps"):
        attention_section(tmp_path)
    perceptron = mlp(MLPConfig((4, 4, 1), (8,), 2), jax.random.key(0))
    with pytest.raises(ValueError, match="MLPConfig has no attention maps to keep"):
        keep_maps(Trained(perceptron, perceptron.params, tmp_path), {"images": np.zeros((1, 4, 4, 1))})
