"""Rows and tables of what is kept of tasks in turn: split MNIST, A-GEM, the table over three streams."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.incremental import table
from experiments.reproduce import permuted_mnist_agem, split_mnist
from ft_jax.core import Outputs


def logits_of(scenario, lwf, train):
    """The answers that methods see of examples of 5 and 0, and their loss."""
    said = jnp.arange(20.0).reshape(2, 10) / 10

    class Context:
        def run(self, apply, params, batch):
            return Outputs(hidden=said, unembedding=jnp.eye(10))

    Context.train = train
    terms, outputs = split_mnist.told(None, scenario, lwf)({}, {"labels": jnp.array([5, 0])}, Context())
    return float(terms["task"]), np.asarray(jax.nn.softmax(outputs.logits)), np.asarray(said)


def test_a_known_task_leaves_its_own_two_digits():
    loss, chances, said = logits_of("task", False, True)
    assert (chances[0] > 0).nonzero()[0].tolist() == [4, 5] and (chances[1] > 0).nonzero()[0].tolist() == [0, 1]
    gaps = np.array([said[0, 4] - said[0, 5], said[1, 1] - said[1, 0]])
    assert loss == pytest.approx(np.mean(np.log1p(np.exp(gaps))), rel=1e-5)
    assert (logits_of("class", False, True)[1] > 0).all()


def test_lwf_compares_digits_of_earlier_pairs_and_an_evaluation_all():
    for scenario in ("task", "class"):
        assert (logits_of(scenario, True, True)[1][0] > 0).nonzero()[0].tolist() == [0, 1, 2, 3]
    assert (logits_of("class", True, False)[1] > 0).all()
    assert logits_of("class", True, True)[0] == logits_of("class", False, True)[0]


def test_replay_keeps_pairs_that_naive_training_forgets(address, monkeypatch):
    monkeypatch.setattr(split_mnist, "WIDTHS", (128,))
    monkeypatch.setattr(split_mnist, "KEPT", 5)
    naive, kept = (split_mnist.accuracies("class", name, address, 0, 40) for name in ("naive", "iCaRL"))
    assert naive[0, 0] > 0.9 and naive[4, :3].max() < 0.3
    assert kept[4].mean() > naive[4].mean() + 0.3


def test_a_penaltys_weight_is_chosen_on_training_digits_that_are_not_learned_from(address, monkeypatch):
    monkeypatch.setattr(split_mnist, "WIDTHS", (32,))
    monkeypatch.setattr(split_mnist, "STRENGTHS", {"EWC": (0.0, 1e9)})
    split_mnist.compiled.cache_clear()
    asked = []
    found = split_mnist.compiled

    def watched(*which):
        start, learn, end, answers = found(*which)
        return (
            start,
            lambda state, part, rows: asked.append(("learns", np.unique(rows) % 10)) or learn(state, part, rows),
            end,
            lambda state, part: asked.append(("asks", len(part["labels"]))) or answers(state, part),
        )

    monkeypatch.setattr(split_mnist, "compiled", watched)
    assert split_mnist.strongest("domain", "EWC", address, 10) in (0.0, 1e9)
    train = len(split_mnist.digits(address)["train"]["labels"])
    assert {count for what, count in asked if what == "asks"} == {train}
    assert all(9 not in digits for what, digits in asked if what == "learns")
    assert split_mnist.strongest("domain", "naive", address, 10) is None
    found.cache_clear()


def test_icarl_is_measured_where_classes_come_one_after_another():
    assert [name for name in split_mnist.OUTPUTS if "iCaRL" in split_mnist.names(name)] == ["class"]
    assert all({"naive", "EWC", "SI", "LwF", "ER", "joint"} <= {*split_mnist.names(one)} for one in split_mnist.OUTPUTS)


def test_findings_say_who_is_above_whom():
    names = ("naive", "EWC", "SI", "LwF", "ER", "joint")
    ends = {
        (scenario, name): np.array([0.5 + 0.06 * at])
        for scenario in split_mnist.OUTPUTS
        for at, name in enumerate(names)
    }
    ends["class", "iCaRL"] = np.array([0.9])
    assert [one.met for one in split_mnist.order(ends)] == [True, True, True, False, True, True, False]


def test_agem_is_measured_beside_naive_training(address, monkeypatch):
    for name, value in {"QUICK": 2, "MEMORIES": 10, "SAMPLE": 10}.items():
        monkeypatch.setattr(permuted_mnist_agem, name, value)
    found = permuted_mnist_agem.measure((0,), True, address)
    assert len(found.findings) == 1 and np.isfinite(found.findings[0].ours).all() and len(found.pictures) == 1


def stream(seed, tasks=3, rows=90):
    """Points of six clouds, two a task."""
    random = np.random.default_rng(seed)
    centres = 3 * np.random.default_rng(7).normal(size=(2 * tasks, 8))
    labels = [np.asarray(2 * task + random.integers(0, 2, rows), np.int32) for task in range(tasks)]
    parts = [(np.float32(centres[one] + random.normal(size=(rows, 8))), one) for one in labels]
    return table.Turns(parts, parts, 2 * tasks, 100)


def test_the_table_tells_scores_and_costs_of_each_method(monkeypatch):
    whole = table.methods
    monkeypatch.setattr(table, "methods", lambda turns: {name: whole(turns)[name] for name in ("naive", "ER", "joint")})
    monkeypatch.setattr(table, "ASKED", ("ER",))
    monkeypatch.setattr(table, "STRENGTHS", {"ER": (0.0, 1.0)})
    rows = table.measured(lambda address, seed: stream(seed), "", (0,))
    average, forgotten = ({name: row[score][0] for name, row in rows.items()} for score in ("average", "forgetting"))
    assert average["naive"] + 0.2 < average["ER"] and forgotten["ER"] + 0.3 < forgotten["naive"]
    assert rows["ER"]["weight"] == 1.0 and rows["naive"]["weight"] is None
    assert rows["naive"]["mib"] == 0 and rows["ER"]["mib"] == pytest.approx(200 * (8 + 1) * 4 / 2**20, rel=0.01)
    assert rows["naive"]["operations"] == 1 and 1.8 < rows["ER"]["operations"] < 2.6
    assert [claim.met for claim in table.claims(rows)] == [True, average["joint"] >= average["ER"]]


def test_a_method_alone_is_measured_again_and_the_others_stay_as_they_were(tmp_path, monkeypatch):
    whole, path = table.methods, tmp_path / "table.jsonl"
    monkeypatch.setattr(
        table, "methods", lambda turns: {name: whole(turns)[name] for name in ("naive", "iCaRL", "joint")}
    )
    monkeypatch.setattr(table, "ASKED", ("iCaRL",))
    monkeypatch.setattr(table, "ROUNDS", 3)
    monkeypatch.setattr(table, "pairs", lambda address, seed: stream(seed))

    def run(*words):
        argv = ["table", "--streams", "pairs", "--seeds", "1", "--out", str(path), *words]
        monkeypatch.setattr(sys, "argv", argv)
        table.main()
        return {line["method"]: line for line in map(json.loads, path.read_text().splitlines()) if "method" in line}

    first = run()
    assert all(row["milliseconds"] > 0 for row in first.values()) and first["iCaRL"]["mib"] > 0
    assert first["iCaRL"]["average"][0] > first["naive"]["average"][0] + 0.2
    path.write_text("".join(json.dumps({**row, "average": [0.5]}) + "\n" for row in first.values()))
    again = run("--methods", "iCaRL")
    assert again["naive"]["average"] == [0.5] and again["iCaRL"]["average"] == first["iCaRL"]["average"]
    assert {line["average"][0] for line in run("--methods").values()} == {0.5, *first["iCaRL"]["average"]}
    path.unlink()
    with pytest.raises(SystemExit, match="naive is not recorded for pairs; leave --methods out, or name it"):
        run("--methods", "iCaRL")
