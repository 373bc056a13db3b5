"""The student writes the answers it is corrected on: against rows made one by one, and as GKD."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax.core import compose, make_step, optimizer, supervised
from ft_jax.core.method import Method
from ft_jax.core.params import digest
from ft_jax.distillation import cached_logits, jsd, on_policy, reverse_kl
from ft_jax.models import generate, tiny_decoder

MODEL = tiny_decoder(jax.random.key(0), vocabulary=16, width=8, layers=1)
TEACHER = jax.tree.map(lambda leaf: 1.3 * leaf, MODEL.params)
TIME, NEW = 8, 4


def rows():
    """Prompts of 1, 3 and 7 tokens with answers, and a row of padding; the second is padded on the left."""
    ids = jax.random.randint(jax.random.key(1), (4, TIME), 2, 16)
    starts = np.array([0, 3, 6, 0])
    place = np.arange(TIME)
    labels = np.where((place >= starts[:, None]) & (place < starts[:, None] + 2), np.roll(ids, -1, axis=1), -1)
    labels[3] = -1
    real = np.ones((4, TIME), np.int32)
    real[1, 0] = 0
    return {
        "input_ids": ids,
        "labels": jnp.asarray(labels),
        "attention_mask": jnp.asarray(real),
        "weights": jnp.asarray(labels >= 0, jnp.float32),
    }, starts


def stepped(method, batch, **options):
    """``(state, the batch that the loss saw, metrics)`` of a step."""
    spy = Method("spy", after_step=lambda state, event: state.remember("spy", event.batch))
    program = make_step(
        supervised(MODEL.apply), optimizer(optax.sgd, learning_rate=0.0), compose(spy, method), **options
    )
    state = program.init(MODEL.params, jax.random.key(3))
    after, metrics = jax.jit(program.step)(state, batch)
    return state, after.memory["spy"], metrics


def test_answers_stand_where_the_datas_stood():
    batch, starts = rows()
    method = on_policy(MODEL.apply, share=1.0, max_new_tokens=NEW, stop_tokens=(5, 9), pad_token=1)
    state, seen, _ = stepped(method, batch)
    key = jax.random.fold_in(state.key, state.step)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, digest(method.name)), jnp.arange(4))
    for row in range(3):
        begin = 1 if row == 1 else 0
        prompt = batch["input_ids"][row, begin : starts[row] + 1]
        told = generate(
            MODEL, MODEL.params, prompt[None], max_new_tokens=NEW, key=keys[row : row + 1], temperature=1.0,
            stop_tokens=(5, 9), pad_token=1,
        )  # fmt: skip
        answer = told.tokens[0, : told.lengths[0]].tolist()
        room = TIME - starts[row] - 1
        whole = [*batch["input_ids"][row, : starts[row] + 1].tolist(), *answer[:room]]
        assert seen["input_ids"][row].tolist() == whole + [1] * (TIME - len(whole))
        said = answer[: TIME - starts[row]]
        labels = [-1] * starts[row] + said
        assert seen["labels"][row].tolist() == labels + [-1] * (TIME - len(labels))
        np.testing.assert_array_equal(seen["weights"][row] > 0, seen["labels"][row] >= 0)
        assert int(seen["attention_mask"][row].sum()) == len(whole) - begin
    for field in batch:
        np.testing.assert_array_equal(seen[field][3], batch[field][3])  # a row without a label


def test_it_is_gkd_with_a_jensen_shannon_divergence():
    """The step's loss is the divergence on the student's own answers, of which it has no gradient."""
    batch, _ = rows()
    student = on_policy(MODEL.apply, share=1.0, max_new_tokens=NEW)
    whole = compose(student, jsd(MODEL.apply, TEACHER, hard_weight=None))
    _, seen, metrics = stepped(whole, batch)
    _, _, wanted = stepped(jsd(MODEL.apply, TEACHER, hard_weight=None), dict(seen))
    np.testing.assert_allclose(metrics["loss"], wanted["loss"], rtol=1e-6)
    np.testing.assert_allclose(metrics["gradient_norm"], wanted["gradient_norm"], rtol=1e-5)
    reverse = compose(student, reverse_kl(MODEL.apply, TEACHER, hard_weight=None))
    assert float(stepped(reverse, batch)[2]["loss"]) > 0


def test_a_share_of_the_steps_is_the_students():
    batch, _ = rows()
    method = on_policy(MODEL.apply, share=0.3, max_new_tokens=NEW)
    spy = Method("spy", after_step=lambda state, event: state.remember("spy", event.batch["input_ids"]))
    program = make_step(supervised(MODEL.apply), optimizer(optax.sgd, learning_rate=0.0), compose(spy, method))
    state = program.init(MODEL.params, jax.random.key(3)).remember("spy", batch["input_ids"])

    def one(state, _):
        state, _ = program.step(state, batch)
        return state, (state.memory["spy"] != batch["input_ids"]).any()

    _, changed = jax.jit(lambda state: jax.lax.scan(one, state, None, length=300))(state)
    assert 0.3 - 4 * (0.21 / 300) ** 0.5 < float(changed.mean()) < 0.3 + 4 * (0.21 / 300) ** 0.5


def test_devices_write_the_same_answers():
    batch, _ = rows()
    method = on_policy(MODEL.apply, share=1.0, max_new_tokens=NEW)
    _, alone, _ = stepped(method, batch)
    spy = Method("spy", after_step=lambda state, event: state.remember("spy", event.batch))
    mapped = make_step(
        supervised(MODEL.apply), optimizer(optax.sgd, learning_rate=0.0), compose(spy, method), axis="data"
    )
    state = jax.tree.map(lambda x: jnp.stack([x] * 2), mapped.init(MODEL.params, jax.random.key(3)))
    halves = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), batch)
    state, _ = jax.pmap(mapped.step, axis_name="data", devices=jax.devices()[:2])(state, halves)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[0]), alone, state.memory["spy"])


def test_what_cannot_be_written_anew_is_refused():
    batch, _ = rows()
    method = on_policy(MODEL.apply, max_new_tokens=NEW)
    with pytest.raises(ValueError, match="packed; set packing to False"):
        stepped(method, {**batch, "segment_ids": batch["attention_mask"]})
    with pytest.raises(ValueError, match=r"the labels are \(4,\) for tokens \(4, 8\)"):
        stepped(method, {**batch, "labels": jnp.zeros(4, jnp.int32)})
    for wrong in ({"share": 1.5}, {"max_new_tokens": 0}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            on_policy(MODEL.apply, **{"max_new_tokens": NEW, **wrong})
    sentences = []
    for pair in ((method, cached_logits()), (cached_logits(), method)):
        with pytest.raises(ValueError, match="reads what a teacher said of the data's tokens") as error:
            compose(*pair)
        sentences.append(str(error.value))
    assert sentences[0] == sentences[1]
