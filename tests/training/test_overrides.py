import dataclasses
import re
from pathlib import Path

import pytest

from ft_jax.training.composition import Use
from ft_jax.training.experiment import Experiment
from ft_jax.training.overrides import fields, override


@dataclasses.dataclass(frozen=True)
class Model:
    """A model.

    Attributes:
      width: of its hidden states.
    """

    width: int = 4
    folder: Path | None = None

    def build(self, key):
        raise AssertionError("overrides build nothing")


@dataclasses.dataclass(frozen=True)
class Data:
    domains: tuple[str, ...] = ("movie",)
    limit: int | None = None
    shuffle: bool = True
    template: str | None = None
    mark: str = "-"

    def build(self, model, feed):
        raise AssertionError("overrides build nothing")


METHODS = (
    Use("adaptive.uncertainty", terms=("task", "backbone")),
    Use("transfer.lora", rank=8),
    Use("distillation.logits", params=Model(3)),
    Use("tuning.population", numbers={"optimizer.learning_rate": [1e-3, 1e-2]}),
)
EXPERIMENT = Experiment("transfer/example", Model(), Data(), METHODS)


def values(experiment):
    return {field.path: field.value for field in fields(experiment)}


def changes(*tokens):
    """What differs after an override, by path."""
    before, after = values(EXPERIMENT), values(override(EXPERIMENT, tokens))
    return {path: value for path, value in after.items() if path not in before or before[path] != value}


@pytest.mark.parametrize(
    "path, words, value",
    [
        ("seed", ["3"], 3),
        ("data.template", ["{prompt} (such as: {completion})"], "{prompt} (such as: {completion})"),
        ("data.mark", ["[1]"], "[1]"),
        ("model.width", ["16"], 16),
        ("model.folder", ["a/b"], Path("a/b")),
        ("data.domains", ["tweets", "nyt"], ("tweets", "nyt")),
        ("data.domains", ["('tweets', 'nyt')"], ("tweets", "nyt")),
        ("data.limit", ["64"], 64),
        ("data.shuffle", ["false"], False),
        ("evaluation.keep_best", [], True),
        ("evaluation.keep-best", ["True"], True),
        ("evaluation.mode", ["max"], "max"),
        ("optimizer.learning_rate", ["1e-4"], 1e-4),
        ("budget.steps", ["None"], None),
        ("parallelism", ["mesh(2,2)"], "mesh(2,2)"),
        ("method.transfer.lora.rank", ["4"], 4),
        ("method.transfer.lora.alpha", ["2"], 2.0),
        ("method.transfer.lora.targets", ["*/query/*"], "*/query/*"),
        ("method.transfer.lora.targets", ["*/query/*", "*/value/*"], ("*/query/*", "*/value/*")),
        ("method.distillation.logits.params.width", ["5"], 5),
    ],
)
def test_a_field_takes_a_value_of_its_type_and_nothing_else_changes(path, words, value):
    changed = changes(f"--{path}", *words)
    assert changed == {path.replace("-", "_"): value}
    assert type(changed[path.replace("-", "_")]) is type(value)


def test_numbers_are_set_by_method_and_number():
    changed = override(EXPERIMENT, ["--hyper.optimizer.learning_rate", "1e-3", "--hyper.transfer.lora.alpha=8"])
    assert changed.hyper == {"optimizer.learning_rate": 1e-3, "transfer.lora.alpha": 8.0}
    again = override(changed, ["--hyper.transfer.lora.alpha", "4"])
    assert again.hyper == {"optimizer.learning_rate": 1e-3, "transfer.lora.alpha": 4.0}
    assert override(EXPERIMENT, ["--optimizer.options.b2", "0.9"]).optimizer.options == {"b2": 0.9}


def test_trials_are_set_by_number_or_all_at_once():
    path = "--method.tuning.population.numbers"
    one = override(EXPERIMENT, [f"{path}.optimizer.learning_rate", "1", "2"]).method[3].options["numbers"]
    assert one == {"optimizer.learning_rate": (1.0, 2.0)}
    whole = override(EXPERIMENT, [path, "{'transfer.lora.alpha': [1, 2]}"]).method[3].options["numbers"]
    assert whole == {"transfer.lora.alpha": (1.0, 2.0)}


def test_an_override_changes_no_argument():
    before = values(EXPERIMENT)
    override(EXPERIMENT, ["--method.transfer.lora.rank", "2", "--hyper.a.b", "1", "--data.domains", "x"])
    assert values(EXPERIMENT) == before and EXPERIMENT.hyper == {}


def test_a_method_used_twice_is_told_apart_by_its_name():
    twice = dataclasses.replace(EXPERIMENT, method=(Use("transfer.lora", name="outer"), Use("transfer.lora")))
    changed = override(twice, ["--method.outer.rank", "2"])
    assert [use.options.get("rank") for use in changed.method] == [2, None]


@pytest.mark.parametrize(
    "tokens, message",
    [
        (["--budget.step", "3"], "the experiment has no field 'budget.step'; the nearest are budget.steps, "),
        (["--method.transfer.lora.rnk", "3"], "the nearest are method.transfer.lora.rank, "),
        (["--method.transfer.lore.rank", "3"], "the nearest are method.transfer.lora.rank, "),
        (["--budget", "3"], "--budget is made of fields; set one of --budget.steps, "),
        (["--budget.steps", "many"], r"--budget.steps takes int | None, got 'many'; it is 100 now"),
        (["--budget.steps", "1", "2"], r"--budget.steps takes int | None, got '1 2'; it is 100 now"),
        (["--evaluation.mode", "up"], "--evaluation.mode takes 'min' | 'max', got 'up'; it is 'min' now"),
        (["--seed"], "--seed needs a value: int; it is 0 now"),
        (["--seed", "1", "--seed", "2"], "--seed is given twice; give it once"),
        (["--loss", "mine"], "--loss is a function | None, which a command line can't hold; set it in the file"),
        (["stray"], "'stray' stands before any --field"),
        (["--data.domains", "[a"], "--data.domains takes tuple[str, ...], got '[a'; it is ('movie',) now"),
    ],
)
def test_what_cannot_be_set_is_told_in_one_sentence(tokens, message):
    with pytest.raises((KeyError, ValueError), match=re.escape(message)):
        override(EXPERIMENT, tokens)


def test_every_field_is_listed_with_type_and_help():
    listed = {field.path: field for field in fields(EXPERIMENT)}
    assert listed["model.width"].help == "of its hidden states."
    assert listed["budget.steps"].kind == "int | None"
    assert listed["method.transfer.lora.rank"].value == 8
    assert "method.distillation.logits.temperature" in listed, "defaults of a method's constructor are fields too"
    assert "method.distillation.logits.apply" not in listed, "the run fills it in"
