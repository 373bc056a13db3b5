import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from core import tiny

from ft_jax.core import Method, compose, jit_step, make_step, optimizer, supervised
from ft_jax.ensemble import members
from ft_jax.meta import choose
from ft_jax.meta.choosing import Candidate, Mixture, chosen_candidate, standings, why
from ft_jax.transfer import l2_sp, lora

KEY = jax.random.key(0)
LOSS = supervised(tiny.apply)
ADAM = optimizer(optax.adam, learning_rate=0.01)


def head():
    return Method("head", trainable=lambda path, leaf: "head" in path)


def candidates():
    return {"head": head(), "lora-1": lora(1, targets=("*/kernel",)), "lora-3": lora(3, targets=("*/kernel",))}


def program_of(*arguments, **options):
    return make_step(LOSS, ADAM, choose(*arguments, metric="accuracy", **options))


def turn(program, step, state, reward, steps=2):
    for _ in range(steps):
        state, metrics = step(state, tiny.batch())
    return program.after_eval(state, {"accuracy": jnp.float32(reward)}), metrics


@pytest.mark.parametrize("features", [False, True])
def test_each_candidate_trains_as_in_a_run_of_its_own_and_switching_compiles_nothing(features):
    program = program_of(candidates(), "ucb", features=features)
    state, step = program.init(tiny.params(), KEY), jit_step(program.step)
    for reward in (0.2, 0.9, 0.4):
        state, _ = turn(program, step, state, reward)
    assert step.compilations() == 1
    for label, method in candidates().items():
        alone = make_step(LOSS, ADAM, method)
        own, plain = alone.init(tiny.params(), KEY), jit_step(alone.step)
        for _ in range(2):
            own, _ = plain(own, tiny.batch())
        chex.assert_trees_all_close(state.params[label], own.params, atol=1e-6)
    assert [row["turns"] for row in standings(state)] == [1, 1, 1]
    assert standings(state)[0]["candidate"] == "lora-1" and standings(state)[0]["mean"] == pytest.approx(0.9)


def test_the_best_candidate_is_settled_on_and_the_reason_said():
    quality = {"head": 0.3, "lora-1": 0.5, "lora-3": 0.8}
    program = program_of(candidates(), "ucb", features=False)
    state = program.init(tiny.params(), KEY)
    assert why(state) == "head: it has had no turn yet"
    act, chosen = jax.jit(program.after_eval), []
    for _ in range(40):
        chosen.append(chosen_candidate(state))
        state = act(state, {"accuracy": jnp.float32(quality[chosen[-1]])})
    assert chosen[-10:].count("lora-3") >= 8
    # Results without noise: exploring more than that says is of no use.
    assert state.hyper["meta.choose"]["exploration"] < 0.6
    assert why(state).startswith(f"{chosen_candidate(state)}: ")


def test_features_of_the_task_are_seen_once_at_its_start():
    program = program_of(candidates(), "thompson")
    state, step = program.init(tiny.params(), KEY), jit_step(program.step)
    state, _ = step(state, tiny.batch())
    first = np.asarray(state.memory["meta.choose"]["features"])
    alone = make_step(LOSS, ADAM, head())
    _, metrics = alone.step(alone.init(tiny.params(), KEY), tiny.batch())
    expected = [1.0, 1.0, np.log1p(metrics["loss"]), np.log1p(metrics["gradient_norm"])]
    np.testing.assert_allclose(first[0], expected, rtol=1e-4)
    state, _ = step(state, tiny.batch())
    np.testing.assert_array_equal(state.memory["meta.choose"]["features"], first)


def test_a_task_that_ends_leaves_the_record_and_takes_candidates_back_to_their_start():
    program = program_of(candidates(), "ucb")
    begin = program.init(tiny.params(), KEY)
    state, _ = turn(program, jax.jit(program.step), begin, 0.7)
    moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), state.params["head"], begin.params["head"])
    assert max(jax.tree.leaves(moved)) > 1e-3
    ended = program.after_task(state, jax.tree.map(lambda x: x[None], tiny.batch()))
    chex.assert_trees_all_equal(ended.params, begin.params)
    assert ended.memory["meta.choose"]["record"]["pulls"].tolist() == [1, 0, 0]


def test_methods_beside_it_are_part_of_every_candidate():
    beside = compose(choose(candidates()), l2_sp(0.5))
    program = make_step(LOSS, ADAM, beside)
    state, step = program.init(tiny.params(), KEY), jax.jit(program.step)
    alone = make_step(LOSS, ADAM, compose(head(), l2_sp(0.5)))
    own, plain = alone.init(tiny.params(), KEY), jax.jit(alone.step)
    for _ in range(3):
        state, metrics = step(state, tiny.batch())
        own, expected = plain(own, tiny.batch())
    chex.assert_trees_all_close(state.params["head"], own.params, atol=1e-6)
    np.testing.assert_allclose(metrics["transfer.l2_sp"], expected["transfer.l2_sp"], rtol=1e-5)


def test_a_network_of_its_own_is_a_candidate():
    wide = jax.tree.map(lambda x: x, tiny.params())
    wide["head"] = {"kernel": wide["head"]["kernel"] * 2}
    pair = {"base": compose(), "other": Candidate(compose(), LOSS, wide)}
    state = program_of(pair).init(tiny.params(), KEY)
    chex.assert_trees_all_equal(state.params["other"]["model"], wide)


def test_a_mixture_trains_all_and_moves_to_the_candidate_of_the_smaller_loss():
    rates = {
        "still": Method("none", trainable=lambda path, leaf: "head/bias" in path or "table" in path),
        "all": compose(),
    }
    program = make_step(LOSS, ADAM, choose(rates, Mixture(exploration=2.0)))
    state, step = program.init(tiny.params(), KEY), jit_step(program.step)
    for _ in range(30):
        state, _ = step(state, tiny.batch())
    weights = jax.nn.softmax(state.memory["meta.choose"]["record"]["gates"])
    assert weights[0] > 0.6 and chosen_candidate(state) == "all"
    found = program.evaluate(state, tiny.batch())
    np.testing.assert_allclose(jax.nn.logsumexp(found.predictions, axis=-1), 0.0, atol=1e-4)


def test_a_candidate_that_can_not_be_built_is_named_and_the_others_go_on():
    broken = {**candidates(), "broken": lora(2, targets=("*/kernal",))}
    with pytest.warns(UserWarning, match="goes on without candidate 'broken': transfer.lora: no weight matches"):
        state = program_of(broken).init(tiny.params(), KEY)
    assert sorted(state.params) == ["head", "lora-1", "lora-3"]
    none = {name: lora(2, targets=("*/kernal",), name=name) for name in ("one", "two")}
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="can build none of its candidates"):
        program_of(none).init(tiny.params(), KEY)


def test_what_is_no_choice_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="has 1 candidates"):
        choose({"a": compose()})
    with pytest.raises(ValueError, match=r"meta.choose and ensemble.members both map the whole program"):
        compose(choose(candidates()), members(2))
    program = program_of(candidates())
    with pytest.raises(KeyError, match="chooses by 'accuracy', which isn't measured; the nearest are acc"):
        program.after_eval(program.init(tiny.params(), KEY), {"acc": 1.0})
