"""What the README says, run."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_readmes_composition_takes_a_step_on_smollm2():
    from ft_jax.assets import SMOLLM2
    from ft_jax.models import load

    ids = np.asarray(load(SMOLLM2).tokenizer("The capital of France is Paris.")["input_ids"], np.int32)[None]
    batch = {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    scope = {"batch": batch}
    exec(code, scope)
    metrics, state = scope["metrics"], scope["state"]
    assert set(metrics) >= {"loss", "task", "distillation.logits", "incremental.ewc", "adaptive.uncertainty"}
    assert jnp.isfinite(metrics["loss"]) and float(metrics["task"]) > 0
    np.testing.assert_allclose(metrics["distillation.logits"], 0.0, atol=1e-3)
    assert float(state.hyper["distillation.logits"]["weight"]) == 0.5
    learned = jax.tree.leaves(state.params["model"])
    assert 0 < sum(leaf.size for leaf in learned) < 0.05 * sum(leaf.size for leaf in jax.tree.leaves(state.frozen))


def test_the_readme_names_every_method_of_the_catalogue():
    import ft_jax

    table = re.findall(r"^\| (\w+)(?:: [^|]*)? \| (`[^|]*`) \|$", README, re.MULTILINE)
    named = {f"{family}.{name}" for family, names in table for name in re.findall(r"`(\w+)`", names)}
    assert named == set(ft_jax.catalogue)
