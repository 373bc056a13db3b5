"""Compositions of the catalogue's methods: which compose, whether they trace and train, and what has been seen."""

import ast
import dataclasses
import hashlib
import importlib.util
import inspect
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax.core import catalogue, compose
from ft_jax.testing.comparing import finite, host
from ft_jax.testing.problem import example, layout_of, problem, program_of
from ft_jax.testing.subject import Subject, trained

PACKAGE = Path(__file__).parents[1]
NO_TERMS = ("loss", "gradient_norm", "learning_rate")


@dataclasses.dataclass(frozen=True)
class Pair:
    """Methods by name, outermost first, and the sentence they were refused with, if they were."""

    outer: str
    inner: str
    refusal: str | None = None


def composed(*names: str, layers: int = 1) -> Any:
    """The catalogue's examples of `names`, outermost first, as one method.

    Raises:
      ValueError: they are refused; composing is the only moment at which they may be.
    """
    # Others matter for their layout of batch alone, so that one construction serves most partners.
    whole = tuple(name for name in names if catalogue[name].batch)
    shaping = [tuple(inside for inside in names[place + 1 :] if inside in whole) for place in range(len(names))]
    built = (example(name, *inside, whole=whole, layers=layers) for name, inside in zip(names, shaping, strict=True))
    method = compose(*built)
    program_of(method, layers)
    return method


def composition(*names: str, layers: int = 1) -> Subject:
    """A composition as the laws take it; raises as `composed` does."""
    method = composed(*names, layers=layers)
    return Subject(lambda problem: method, batch=layout_of(*names), layers=layers)


def refusal(outer: str, inner: str) -> str | None:
    """The sentence with which a pair is refused, None where it composes."""
    try:
        composed(outer, inner)
    except ValueError as error:
        return str(error)
    return None


def check_refusal(pair: Pair) -> None:
    """Raises an AssertionError unless a refusal is a sentence that names one of the two."""
    sentence = pair.refusal
    assert pair.outer in sentence or pair.inner in sentence, f"{pair} does not name a method"
    assert "\n" not in sentence and len(sentence.split()) > 6, f"{pair} is not a sentence"


def check_traces(subject: Subject) -> None:
    """Raises an AssertionError unless a step gives back the state's shapes; nothing is computed.

    What maps the whole program is evaluated too: predictions have the trials' axes and those of the batch.
    """
    state = jax.eval_shape(subject.program.init, problem(subject.layers).params, jax.random.key(3))
    after, metrics = jax.eval_shape(subject.program.step, state, subject.batch)
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), one) for one in (state, after)]
    assert shapes[0] == shapes[1], f"a step of {subject.name} changes the state's shapes"
    assert "loss" in metrics
    if subject.lifts:
        plain = problem(subject.layers).batch
        found = jax.eval_shape(subject.program.evaluate, state, plain)
        shape = (*subject.program.trials, *plain["labels"].shape)
        assert found.predictions.shape[:-1] == shape, f"{subject.name} predicts {found.predictions.shape}, not {shape}"
        known = jax.ShapeDtypeStruct(subject.program.trials, jnp.float32)
        after = jax.eval_shape(subject.program.after_eval, state, dict.fromkeys(("loss", "task"), known))
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)


def losses(subject: Subject, steps: int = 5) -> tuple[float, float, bool]:
    """``(first loss, last loss, trains)`` of `steps` steps on one batch."""
    _, history = trained(jax.jit(subject.program.step), subject.start(), subject.batch, steps)
    first, last = (float(np.mean(host(metrics["loss"]))) for metrics in (history[0], history[-1]))
    return first, last, finite(history) and descends(history, _reported(subject))


def _reported(subject: Subject) -> set[str]:
    """The metrics that are methods' reports, and no terms."""
    reports = [part.report for part in compose(subject.method) if part.report is not None]
    return {name for report in reports for name in jax.eval_shape(report, subject.start())}


def descends(history: list, reported: Collection[str] = ()) -> bool:
    """Whether the terms that the first step had fall, taken together.

    Terms that begin at zero (a penalty, a replay from an empty buffer) are left out: they can only rise.
    """
    others = {*NO_TERMS, *reported}
    told = [name for name in history[0] if name not in others and not name.startswith("hyper.")]
    told = [name for name in told if "/" not in name]  # what a loss tells of its examples is no term
    terms = [term for term in told if np.any(host(history[0][term]) != 0)]
    first, last = (sum(float(jnp.mean(history[step][term])) for term in terms) for step in (0, -1))
    return last < first


def digests() -> dict[str, str]:
    """Of every method, and of ``core``: a digest of the sources it stands on, which changes when they do.

    A method's are its own file's and those of its family that it imports; the core's are all of ``ft_jax/core`` and
    the problem of the laws.
    """
    files = {name: inspect.getsourcefile(inspect.unwrap(entry.build)) for name, entry in catalogue.items()}
    found = {name: _digest(_sources(file)) for name, file in files.items()}
    here = Path(__file__)
    return {**found, "core": _digest([*(PACKAGE / "core").rglob("*.py"), here, here.with_name("problem.py")])}


def digest_of(outer: str, inner: str, known: dict[str, str]) -> str:
    """What stands in a pair's line: the two methods' digests and the core's."""
    return ".".join(known[part] for part in (outer, inner, "core"))


def _digest(files: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    for file in sorted(files):
        whole.update(file.read_bytes())
    return whole.hexdigest()[:8]


def _sources(file: str) -> frozenset[Path]:
    """A file and, transitively, the modules of its own family that it imports."""
    family = PACKAGE / Path(file).relative_to(PACKAGE).parts[0]
    seen, waiting = set(), [Path(file)]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            for module in _imported(node):
                found = importlib.util.find_spec(module) if module.startswith("ft_jax.") else None
                if found and found.origin and Path(found.origin).is_relative_to(family):
                    waiting.append(Path(found.origin))
    return frozenset(seen)


def _imported(node) -> list[str]:
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
