"""A checkpoint names its composition."""

import pytest

from ft_jax.testing.subject import subject
from ft_jax.training.checkpoint import AnotherCheckpoint, Checkpoints


def test_a_checkpoint_of_another_composition_is_refused(tmp_path):
    state = subject("incremental.ewc").start()
    saving = Checkpoints(tmp_path, ("incremental.ewc",), state)
    saving.save(state, {})
    saving.close()
    other = Checkpoints(tmp_path, ("transfer.lora",), subject("transfer.lora").start())
    with pytest.raises(AnotherCheckpoint, match=r"is of incremental.ewc, not of transfer.lora; run with"):
        other.restore()
    other.close()
