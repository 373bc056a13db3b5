"""What is served after a run answers as the run's evaluation did, and a run that was saved goes on as if it had not."""

import tempfile
from pathlib import Path
from typing import Any

from ft_jax.core.grafts import ungrafted
from ft_jax.models import load, save
from ft_jax.testing.comparing import close, same_bits
from ft_jax.testing.problem import model
from ft_jax.testing.subject import Subject
from ft_jax.training.checkpoint import Checkpoints


def reloaded(subject: Subject, state: Any) -> Any:
    """`state` out of a checkpoint, as a process that starts anew finds it."""
    fresh = subject.start()
    with tempfile.TemporaryDirectory() as folder:
        saving = Checkpoints(Path(folder), (subject.name,), state)
        saving.save(state, {"place": 2})
        saving.close()
        loading = Checkpoints(Path(folder), (subject.name,), fresh)
        restored, record = loading.restore()
        loading.close()
    assert record == {"place": 2}
    return restored.replace(frozen=fresh.frozen)


def resume_is_bitwise_invisible(subject: Subject) -> None:
    """Save, kill, restore: the rest of the run has the same bits."""
    half, _ = subject.train(steps=2)
    same_bits(subject.train(half, steps=2), subject.train(reloaded(subject, half), steps=2))


def what_is_served_answers_as_evaluation(subject: Subject) -> None:
    """Parameters out of a checkpoint, and merged ones out of a saved folder, give the predictions of evaluation."""
    one = subject.one_model
    state, _ = one.run
    predictions = one.program.evaluate(state, one.problem.batch).predictions
    close(one.answers(reloaded(one, state)), predictions)
    if not subject.mergeable:
        return
    dense, network = one.dense(state), model(one.layers)
    with tempfile.TemporaryDirectory() as folder:
        if ungrafted(dense)[1]:
            try:
                save(network, dense, f"{folder}/saved")
            except ValueError as error:
                assert "can't be merged" in str(error), str(error)
                return
            raise AssertionError(f"{subject.name} has additions that are no weights, and was saved without a word")
        served = load(save(network, dense, f"{folder}/saved"), tokenizer=False)
    close(served.apply(served.params, one.problem.batch, None).logits, predictions)
