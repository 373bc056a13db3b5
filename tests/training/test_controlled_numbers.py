"""What a controller reads and changes beside losses and rates: a class, a task, which layers learn, how many ranks."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.small import Points, TinyDecoder, Tokens, experiment, points

from ft_jax.core import Method
from ft_jax.training import Budget, EvaluationSpec, OptimizerSpec, Use, fit, prepare
from ft_jax.training.metrics import by_class


def controlled(number, factor, *methods):
    """A run in which an evaluation after six steps, no better by nearly all of the loss, changes a number once."""
    rule = Use("adaptive.plateau", number=number, factor=factor, patience=0, threshold=0.999, cooldown=9)
    return experiment(
        model=TinyDecoder(layers=2),
        data=Tokens(),
        method=(rule, *methods),
        budget=Budget(steps=8, batch_size=8),
        evaluation=EvaluationSpec(every=3),
    )


def test_a_plateau_thaws_what_is_frozen(tmp_path):
    made = controlled("transfer.gradual_unfreezing.every", 0.0, Use("transfer.gradual_unfreezing", every=1e6))
    seen = {}

    def look(moment):
        seen[moment.step] = jax.tree.map(np.array, moment.state.params["model"])

    result = fit(made, run=tmp_path, quiet=True, callbacks=[look])
    assert result.compilations == 1

    def moved(one, other, part):
        return max(
            float(np.abs(a - b).max())
            for a, b in zip(*map(jax.tree.leaves, (seen[one][part], seen[other][part])), strict=True)
        )

    assert moved(3, 6, "layers") == 0.0 and moved(3, 6, "embeddings") == 0.0 < moved(3, 6, "head")
    assert moved(6, 8, "layers") > 1e-3 and moved(6, 8, "embeddings") > 1e-3
    # The moments were those of the task when the layers were let go.
    assert float(result.state.hyper["transfer.gradual_unfreezing"]["every"]) == 0.0


def test_a_plateau_cuts_the_budget_of_ranks(tmp_path):
    made = controlled(
        "transfer.adalora.target", 0.25, Use("transfer.adalora", steps=8, rank=4, target=4, also=("*/head/*",))
    )
    kept = {}

    def look(moment):
        (own,) = [value["kept"] for name, value in moment.state.memory.items() if name == "transfer.adalora"]
        kept[moment.step] = sum(int(one.sum()) for one in own.values())

    result = fit(made, run=tmp_path, quiet=True, callbacks=[look])
    assert result.compilations == 1
    assert kept[6] == kept[3] and kept[8] * 4 == kept[3]


def test_a_controller_sees_every_class_and_every_task(tmp_path):
    watched = ("accuracy.class_2", "f1.class_0", "shift0/accuracy.class_2", "shift1/accuracy")

    def after_eval(state, event):
        return state.with_hyper({f"own.seen.{at}": event.metrics[name] for at, name in enumerate(watched)})

    seen = Method(name="own.seen", hyper={str(at): 0.0 for at in range(len(watched))}, after_eval=after_eval)
    metrics = {"accuracy": lambda p, b: ((b["weights"] * (p.argmax(-1) == b["labels"])).sum(), b["weights"].sum())}
    for own in (None, metrics | by_class(3)):
        made = experiment(
            method=(seen,), data=Points(shifts=(0.0, 1.0)), budget=Budget(steps=4, batch_size=8), metrics=own
        )
        result = fit(made, run=tmp_path / str(own is None), quiet=True)
        found = [float(result.state.hyper["own.seen"][str(at)]) for at in range(len(watched))]
        labels, x = points(21, 1, 1.0).columns["labels"], points(21, 1, 1.0).columns["x"]
        said = np.argmax(np.tanh(x @ result.params["layer"]["kernel"]) @ result.params["head"]["kernel"], axis=-1)
        right = said == labels
        slow = [
            right[labels == 2].mean(),
            2 * (right & (labels == 0)).sum() / ((labels == 0).sum() + (said == 0).sum()),
        ]
        np.testing.assert_allclose(found[:2], slow, rtol=1e-5)
        assert found[3] == pytest.approx(right.mean()) and 0 <= found[2] <= 1
    lines = [json.loads(line) for line in (tmp_path / "False" / "metrics.jsonl").read_text().splitlines()]
    assert all("f1.class_1" in line for line in lines if line["kind"] == "evaluation")


def test_a_metric_that_is_not_there_is_refused_before_the_run_with_the_nearest():
    sentence = (
        "watches metric 'acuracy.class_2', but the evaluation gave 18 metrics, of which the nearest are accuracy.cl"
    )
    with pytest.raises(KeyError, match=sentence):
        prepare(experiment(method=(Use("adaptive.plateau", metric="acuracy.class_2"),)))


def test_two_controllers_of_one_number_are_told_in_their_order(tmp_path):
    outer = Use("adaptive.plateau", factor=0.5, patience=0, threshold=0.999)
    inner = outer.changed(name="own.inner")
    aside = outer.changed(name="own.aside", number="optimizer.weight_decay")
    sentence = r"optimizer.learning_rate is changed by own.inner, then by adaptive.plateau when an evaluation ends"
    made = experiment(
        method=(outer, aside, inner), optimizer=OptimizerSpec("adamw", 0.02), budget=Budget(steps=9, batch_size=8)
    )
    with pytest.warns(UserWarning, match=sentence) as told:
        result = fit(made, run=tmp_path, quiet=True)
    assert sum("is changed by" in str(one.message) for one in told) == 1
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = [
        (line["cause"], line["old"], line["new"]) for line in lines if line.get("number") == "optimizer.learning_rate"
    ]
    assert [cause for cause, _, _ in rates[:2]] == ["own.inner at evaluation", "adaptive.plateau at evaluation"]
    assert rates[0][2] == rates[1][1] == pytest.approx(0.01) and rates[1][2] == pytest.approx(0.005)
    assert float(result.state.hyper["optimizer"]["learning_rate"]) < 0.01


@pytest.mark.parametrize(
    "budget", [Budget(steps=8, batch_size=8, target=0.9), Budget(steps=8, batch_size=8, patience=2)]
)
def test_a_metric_that_is_not_finite_reaches_no_target_and_is_told(tmp_path, budget):
    nothing = {"accuracy": lambda p, batch: (jnp.nan * batch["weights"].sum(), batch["weights"].sum())}
    made = experiment(metrics=nothing, budget=budget, evaluation=EvaluationSpec(every=3, metric="accuracy", mode="max"))
    result = fit(made, run=tmp_path, quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    told = [
        line["message"] for line in lines if line["kind"] == "event" and line["cause"] in ("evaluation", "patience")
    ]
    assert told[0] == "accuracy of shift0 is not finite, which counts as no better"
    assert ("task shift0 ended early: no finite accuracy in 2 evaluations" in told) == (budget.patience == 2)
    assert int(result.state.step) == (8 if budget.patience is None else 6)
