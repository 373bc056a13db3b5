import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core import tiny

from ft_jax.data import Dataset, collate
from ft_jax.rl import with_references


def answers(count, seed):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(3, 7, count)
    row = lambda size: {  # noqa: E731
        "input_ids": generator.integers(0, tiny.CLASSES, size), "labels": generator.integers(0, tiny.CLASSES, size),
        "weights": (np.arange(size) > 0).astype(np.float32),
    }  # fmt: skip
    return [row(size) for size in sizes]


def pairs():
    return Dataset({"chosen": answers(5, 0), "rejected": answers(5, 1)})


def test_references_are_those_of_each_answer_and_are_kept_on_disk(tmp_path):
    cache = tmp_path / "references.npz"
    found = with_references(pairs(), tiny.apply, tiny.params(), length=8, batch_size=2, cache=cache)
    for side in ("chosen", "rejected"):
        for row in found.columns[side]:
            every = jax.nn.log_softmax(
                tiny.apply(tiny.params(), {"input_ids": jnp.array([row["input_ids"]])}, None).logits[0]
            )
            told = sum(every[place, label] for place, label in enumerate(row["labels"]) if row["weights"][place])
            np.testing.assert_allclose(row["reference"], told, rtol=1e-4)
    batch = collate([{side: found.columns[side][row] for side in ("chosen", "rejected")} for row in range(5)])
    assert batch["chosen"]["reference"].shape == (5,)

    def unread(params, batch, key):
        raise AssertionError("the file is there")

    again = with_references(pairs(), unread, tiny.params(), length=8, cache=cache)
    assert [row["reference"] for row in again.columns["chosen"]] == [
        row["reference"] for row in found.columns["chosen"]
    ]
    with pytest.raises(ValueError, match="holds references of other answers or parameters; delete it"):
        with_references(pairs(), unread, jax.tree.map(lambda x: x + 1, tiny.params()), length=8, cache=cache)


def test_judged_answers_carry_both_references():
    rows = answers(3, 2)
    columns = {field: [row[field] for row in rows] for field in rows[0]}
    judged = Dataset({**columns, "desirable": [1.0, 0.0, 1.0], "mismatched": answers(3, 3)})
    found = with_references(judged, tiny.apply, tiny.params(), length=8)
    assert len(found.columns["reference"]) == 3 and all("reference" in row for row in found.columns["mismatched"])
