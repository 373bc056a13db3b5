"""Masking follows BERT's shares, leaves special tokens alone, and depends on seed, epoch and example alone."""

import numpy as np
import pytest

from ft_jax.data import Dataset, batches, mask_tokens

SPECIAL = (0, 1, 2, 3)


def test_shares_are_those_of_the_paper():
    hide = mask_tokens(mask=3, vocabulary=1000, special=SPECIAL)
    ids = np.random.default_rng(0).integers(4, 1000, size=200_000)
    example = hide({"input_ids": ids}, np.random.default_rng(1))
    chosen = example["weights"] > 0
    masked, kept = example["input_ids"][chosen] == 3, example["input_ids"][chosen] == ids[chosen]
    np.testing.assert_allclose(chosen.mean(), 0.15, atol=0.005)
    np.testing.assert_allclose([masked.mean(), kept.mean()], [0.8, 0.1], atol=0.01)
    np.testing.assert_array_equal(example["labels"][chosen], ids[chosen])
    assert (example["labels"][~chosen] == -1).all()
    np.testing.assert_array_equal(example["input_ids"][~chosen], ids[~chosen])
    assert not np.isin(example["input_ids"][chosen][~masked], SPECIAL).any()


def test_special_tokens_are_never_chosen_and_something_always_is():
    hide = mask_tokens(mask=3, vocabulary=100, special=SPECIAL, rate=0.01)
    for seed in range(50):
        example = hide({"input_ids": np.array([1, 50, 51, 2, 0, 0])}, np.random.default_rng(seed))
        assert example["weights"].sum() >= 1 and not example["weights"][[0, 3, 4, 5]].any()
    nothing = hide({"input_ids": np.array([1, 2])}, np.random.default_rng(0))
    assert not nothing["weights"].any()


def test_masks_change_with_the_epoch_and_are_the_same_again():
    dataset = Dataset({"input_ids": [np.arange(4, 40)] * 8, "index": np.arange(8)})
    hide = mask_tokens(mask=3, vocabulary=100, special=SPECIAL)

    def drawn(**options):
        stream = batches(dataset, 4, transform=hide, **options)
        rows = [(int(i), tuple(w)) for batch in stream for i, w in zip(batch["index"], batch["weights"], strict=True)]
        return [dict(rows[:8]), dict(rows[8:])]

    first, second = drawn(seed=0, epochs=2)
    assert first != second and len(set(first.values())) == 8
    assert [first, second] == drawn(seed=0, epochs=2, threads=0)
    assert drawn(seed=1, epochs=2)[0] != first
    assert drawn(seed=0, epochs=2, shuffle=False)[0] == first


@pytest.mark.parametrize(("options", "said"), [({"rate": 0.0}, "rate"), ({"vocabulary": 4}, "special")])
def test_impossible_settings_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        mask_tokens(**{"mask": 3, "vocabulary": 10, "special": SPECIAL, **options})
