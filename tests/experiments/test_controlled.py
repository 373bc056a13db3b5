"""Controllers on digits: what is measured, what is claimed of it, and the controller of docs/adaptive.md."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.adaptive import controlled
from ft_jax.core import Method, Outputs, compose, make_step

PAGE = Path(__file__).parents[2] / "docs" / "adaptive.md"


def test_one_training_example_in_thirty_is_an_eight():
    train, test = controlled.rare("train"), controlled.rare("test")
    assert np.mean(train[1]) == pytest.approx(1 / 30, abs=0.002) and np.mean(test[1]) > 0.07


@pytest.mark.parametrize(
    ("study", "variants", "steps"), [("watched", 2, 20), ("spiked", 3, 70), ("mixed", 3, 20), ("by_heart", 2, 20)]
)
def test_a_study_has_a_curve_of_every_variant_and_seed(study, variants, steps):
    found = controlled.STUDIES[study]((0,), steps)
    assert len(found) == variants and {len(curves) for curves in found.values()} == {1}
    assert all(len(curve) == steps // 10 and np.isfinite(curve).all() for curves in found.values() for curve in curves)
    assert set(controlled.CLAIMS[study][:2]) <= set(found)
    flat = {name: [[0.5]] for name in found} | {controlled.CLAIMS[study][0]: [[0.9]]}
    assert controlled.claimed(study, flat).met and not controlled.claimed(study, {name: [[0.5]] for name in flat}).met


def test_the_pages_controller_changes_another_methods_number():
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1], names)
    other = Method("incremental.replay", hyper={"weight": 0.5})
    program = make_step(
        lambda p, batch, c: ({"t": jnp.sum(p["model"]["w"])}, Outputs(batch["x"])),
        optax.sgd(0.1),
        compose(names["guard"](), other),
    )
    state = program.init({"w": jnp.zeros(2)}, jax.random.key(0))
    for accuracy, weight in ((0.95, 0.5), (0.8, 1.0), (0.8, 2.0)):
        state = program.after_eval(state, {"accuracy": jnp.float32(accuracy)})
        assert float(state.hyper["incremental.replay"]["weight"]) == weight
