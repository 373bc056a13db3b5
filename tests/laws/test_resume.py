"""Law 7: save, kill, restore at any step is bitwise invisible, for every method."""

import pytest
from laws.problem import NAMES, batch_of, compiled, same_bits, start, train

from ft_jax.training.checkpoint import AnotherCheckpoint, Checkpoints


@pytest.mark.parametrize("name", NAMES)
def test_resume_is_bitwise_invisible(name, tmp_path):
    program, step = compiled(name)
    half, _ = train(step, start(program), batch_of(name), 2)
    whole, _ = train(step, half, batch_of(name), 2)

    saving = Checkpoints(tmp_path, (name,), half)
    saving.save(half, {"place": 2})
    saving.close()

    fresh = start(program)
    loading = Checkpoints(tmp_path, (name,), fresh)
    restored, record = loading.restore()
    loading.close()
    assert record == {"place": 2}
    resumed, _ = train(step, restored.replace(frozen=fresh.frozen), batch_of(name), 2)
    same_bits(whole, resumed)


def test_a_checkpoint_of_another_composition_is_refused(tmp_path):
    program, _ = compiled("incremental.ewc")
    state = start(program)
    saving = Checkpoints(tmp_path, ("incremental.ewc",), state)
    saving.save(state, {})
    saving.close()
    other = Checkpoints(tmp_path, ("transfer.lora",), start(compiled("transfer.lora")[0]))
    with pytest.raises(AnotherCheckpoint, match=r"is of incremental.ewc, not of transfer.lora; run with"):
        other.restore()
    other.close()
