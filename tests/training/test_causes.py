"""What other libraries raise is one sentence with its cause, and what this package and callbacks say goes through."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from training.small import Points, experiment

from ft_jax.cli.entry import sentence
from ft_jax.training import HostMetric, fit, prepare
from ft_jax.training.causes import Failed, one_sentence


def test_an_error_of_another_library_before_the_run_names_batch_and_task():
    @dataclasses.dataclass(frozen=True)
    class Wide(Points):
        def build(self, model, feed):
            (task,) = super().build(model, feed)
            wide = [{"x": np.ones((4, 5), np.float32), "labels": np.zeros(4, np.int32)}]
            return (dataclasses.replace(task, evaluations={"wide": wide}),)

    with pytest.raises(ValueError, match=r"activations \[4, 5\] with a weight \[4, 8\] has 5 inputs for 4"):
        prepare(experiment(data=Wide()))
    with pytest.raises(ValueError, match=r"a step on task 'shift0' is not possible with labels .*TypeError") as caught:
        prepare(experiment(loss=lambda model: lambda params, batch, context: jnp.concatenate(1)))
    assert "\n" not in str(caught.value) and isinstance(caught.value.__cause__, TypeError)


def test_a_metric_that_fails_while_a_run_goes_on_is_one_sentence(tmp_path):
    def failing(logits, batch):
        return np.linalg.cholesky(-np.eye(2))

    made = experiment(out=str(tmp_path / "run"), metrics={"odd": HostMetric(failing)})
    with pytest.raises(Failed, match=r"metric 'odd' can't be made of this set \(LinAlgError: ") as caught:
        fit(dataclasses.replace(made, evaluation=dataclasses.replace(made.evaluation, metric="loss")), quiet=True)
    assert isinstance(caught.value.__cause__, np.linalg.LinAlgError)
    assert sentence(caught.value).startswith("metric 'odd'") and "\n" not in sentence(caught.value)


def test_an_error_while_training_says_where_the_run_stood(tmp_path):
    class Gone(RuntimeError):
        """Not of this package."""

    class Source:
        def __init__(self, inner):
            self.inner, self.count = inner, 0

        def __next__(self):
            self.count += 1
            if self.count > 6:
                raise Gone("the host\nis gone")
            return next(self.inner)

        def get_state(self):
            return self.inner.get_state()

        def set_state(self, state):
            self.inner.set_state(state)

    @dataclasses.dataclass(frozen=True)
    class Failing(Points):
        def build(self, model, feed):
            (task,) = super().build(model, feed)
            return (dataclasses.replace(task, train=Source(task.train)),)

    with pytest.raises(
        Failed, match=r"training failed at step \d+ of task 'shift0' \(Gone: the host is gone\)"
    ) as caught:
        fit(experiment(out=str(tmp_path / "run"), data=Failing()), quiet=True)
    assert isinstance(caught.value.__cause__, Gone)


@pytest.mark.parametrize("error", [ValueError("one sentence; mend it"), KeyError("no set 'x'"), OSError("disk full")])
def test_what_this_package_says_goes_through(error):
    with pytest.raises(type(error)) as caught, one_sentence("x failed", "y"):
        raise error
    assert caught.value is error


def test_memory_that_is_not_there_has_its_own_remedy():
    with pytest.raises(Failed, match="make budget.batch_size smaller"), one_sentence("training failed", "y"):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 99 bytes")
