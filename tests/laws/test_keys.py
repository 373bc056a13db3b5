"""No method draws twice from one key, in its beginning, its step or its evaluation: ``make laws``.

jax follows keys through the traced programs, and nothing is compiled. Its checker knows no transposed keys; what uses a
key again on purpose says so with ``jax.random.clone``.
"""

import dataclasses

import jax
import pytest
from jax.errors import KeyReuseError
from jax.experimental.key_reuse import _core as keys
from laws.test_laws import NAMES

from ft_jax.core import Method
from ft_jax.testing.subject import Subject, subject

pytestmark = pytest.mark.laws


def check_keys(subject: Subject) -> None:
    """Raises KeyReuseError where one of a program's functions uses a key twice."""
    program, state = subject.program, subject.start()
    keys.check_key_reuse(program.init, subject.problem.params, jax.random.key(3))
    keys.check_key_reuse(program.step, state, subject.batch)
    keys.check_key_reuse(program.evaluate, state, subject.problem.batch)


@pytest.mark.parametrize("name", NAMES)
def test_no_key_is_used_twice(name):
    check_keys(subject(name))


def test_a_key_that_is_used_twice_would_be_seen():
    def prepare(state, batch, context):
        noise = jax.random.normal(context.key, ()) - jax.random.normal(context.key, ())
        return state, {**batch, "weights": batch["labels"][:, 0] * 0.0 + 1.0 + noise}

    twice = Method("transfer.twice", prepare=prepare)
    check_keys(Subject(lambda problem: dataclasses.replace(twice, prepare=None)))
    with pytest.raises(KeyReuseError):
        check_keys(Subject(lambda problem: twice))
