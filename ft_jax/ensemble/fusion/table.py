"""Members and their fusions side by side."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from ft_jax.ensemble import calibration
from ft_jax.ensemble.calibration import Reliability, Scores
from ft_jax.ensemble.fusion.rules import FUSIONS, majority, mixture_weights, weighted
from ft_jax.ensemble.fusion.stacking import OutOfFold, stack

WAYS = (*FUSIONS, "weighted", "stack")
CALIBRATIONS = ("temperature", "vector")
CONFORMAL = ("aps", "raps")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the comparison.

    Attributes:
      name: a member's, a fusion's.
      scores: on the examples that nothing was fitted on.
      reliability: on the same.
      logits: of all examples, those that something was fitted on with them.
    """

    name: str
    scores: Scores
    reliability: Reliability
    logits: np.ndarray


@dataclasses.dataclass(frozen=True)
class Quorum:
    """A vote that answers only where enough members agree.

    Attributes:
      needed: votes that an answer needs.
      answered: the share of examples that have one, of those that nothing was fitted on.
      accuracy: on them.
      unanswered: the places of the others among all examples, for a person to look at.
    """

    needed: int
    answered: float
    accuracy: float
    unanswered: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
      rows: members, then fusions, then calibrated fusions.
      weights: of the weighted mixture, where asked for.
      sets: by the fusion's name, coverage and mean size of conformal sets, where asked for.
      fitted_on: how many examples weights, stacks, temperatures and sets were fitted on.
      quorum: of the vote, where asked for.
    """

    rows: tuple[Row, ...]
    weights: tuple[float, ...] | None
    sets: dict[str, tuple[float, float]]
    fitted_on: int
    quorum: Quorum | None = None


def compare(
    names: Sequence[str],
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    by: Sequence[str] = ("mean", "vote", "product"),
    calibrate: str | None = None,
    conformal: str | None = None,
    alpha: float = 0.1,
    held_out: float = 0.5,
    seed: int = 0,
    quorum: int | None = None,
) -> Comparison:
    """Scores members and fusions on the same examples.

    What is fitted is fitted on a share of the examples, drawn with each class's share: mixtures and stacks on a part of
    it, the calibration on another, conformal sets on a third, as none may learn from what another has fitted already.
    Everything is scored on the other examples; where nothing is fitted, all score.

    Args:
      names: of the members.
      logits: ``[members, rows, classes]`` on examples that no member was trained on.
      labels: ``[rows]``.
      by: fusions: ``"mean"``, ``"vote"``, ``"product"``, ``"weighted"`` or ``"stack"``.
      calibrate: ``"temperature"`` or ``"vector"``, of every fusion.
      conformal: ``"aps"`` or ``"raps"``, of every fusion, calibrated where `calibrate` is given.
      alpha: the sets' chance to miss.
      held_out: the share that is fitted on.
      seed: of the draw.
      quorum: members whose likeliest class an answer of the vote needs, see `majority`; the vote's own row answers
        everything.

    Raises:
      ValueError: an unknown fusion or calibration, shapes that disagree, a share that leaves nothing, a quorum without
        a vote, or one that no example has.

    Example:
      >>> logits = np.log(np.array([[[0.9, 0.1], [0.6, 0.4]], [[0.6, 0.4], [0.1, 0.9]]]))
      >>> [(row.name, row.scores.accuracy) for row in compare(["a", "b"], logits, np.array([0, 1]), by=["mean"]).rows]
      [('a', 0.5), ('b', 1.0), ('mean', 1.0)]
    """
    logits, labels = np.asarray(logits, np.float32), np.asarray(labels)
    for chosen, known, what in ((by, WAYS, "fuse"), ([calibrate] if calibrate else [], CALIBRATIONS, "calibrate"),
                                ([conformal] if conformal else [], CONFORMAL, "make sets")):  # fmt: skip
        for one in chosen:
            if one not in known:
                raise ValueError(f"can't {what} by {one!r}; use {', '.join(map(repr, known))}")
    if logits.ndim != 3 or labels.shape != logits.shape[1:2] or len(names) != len(logits):
        raise ValueError(
            f"{len(names)} members have logits {logits.shape} and labels {labels.shape}; give [members, rows, classes] "
            "and [rows], the same examples in the same order for all"
        )
    check_quorum(quorum, by, len(names))
    for name, own in zip(names, logits, strict=True):
        if not np.isfinite(own).all():
            raise ValueError(f"{name} has logits that are not finite; leave it out, or look at its run")
    for one in range(1, len(logits)):
        if any(np.array_equal(logits[one], logits[other]) for other in range(one)):
            raise ValueError(
                f"{names[one]} predicts the same as another member to the last bit, so they are one; give "
                "each its own start, rows or features (ensemble.own_start, ensemble.bagging)"
            )
    stages = {"fuse": bool({"weighted", "stack"} & set(by)), "calibrate": bool(calibrate), "conform": bool(conformal)}
    parts, judge = _split(labels, held_out, [stage for stage, wanted in stages.items() if wanted], seed)
    fit = parts.get("fuse", np.array([], int))
    weights = np.asarray(mixture_weights(logits[:, fit], labels[fit])) if "weighted" in by else None
    fused = {way: _fused(way, logits, labels, fit, weights) for way in by}
    if calibrate is not None:
        scale, tune = getattr(calibration, calibrate), parts["calibrate"]
        fused |= {f"{way}, {calibrate}": scale(x[tune], labels[tune])(x) for way, x in list(fused.items())}
    sets = {}
    if conformal is not None:
        make, own = getattr(calibration, conformal), parts["conform"]
        for way in list(fused)[len(by) if calibrate else 0 :]:
            found = make(fused[way][own], labels[own], alpha=alpha)(fused[way][judge])
            sets[way] = calibration.coverage(found, labels[judge])
    fitted = sum(map(len, parts.values()))
    rows = [
        Row(name, calibration.scores(x[judge], labels[judge]), calibration.reliability(x[judge], labels[judge]), x)
        for name, x in [*zip(names, logits, strict=True), *fused.items()]
    ]
    agreed = None if quorum is None else _agreed(logits, labels, judge, quorum)
    return Comparison(tuple(rows), None if weights is None else tuple(weights.tolist()), sets, fitted, agreed)


def check_quorum(quorum: int | None, by: Sequence[str], members: int) -> None:
    """Raises ValueError on a quorum that so many members can't have, or of no vote.

    Example:
      >>> check_quorum(4, ["vote"], 3)
      Traceback (most recent call last):
      ValueError: a quorum of 4 can't be had from 3 members; give one from 1 to 3
    """
    if quorum is None:
        return
    if "vote" not in by:
        raise ValueError(
            f"a quorum of {quorum} is of a vote, and there is none among {', '.join(by)}; fuse by 'vote' too"
        )
    if not 1 <= quorum <= members:
        raise ValueError(f"a quorum of {quorum} can't be had from {members} members; give one from 1 to {members}")


def _agreed(logits, labels, judge, quorum: int) -> Quorum:
    told = majority(logits[:, judge].argmax(axis=-1).tolist(), quorum)
    answered = np.array([one is not None for one in told])
    right = np.array([one == label for one, label in zip(told, labels[judge].tolist(), strict=True)])
    return Quorum(quorum, float(answered.mean()), float(right[answered].mean()), tuple(judge[~answered].tolist()))


def _fused(way, logits, labels, fit, weights):
    if way == "weighted":
        return np.asarray(weighted(logits, weights))
    if way == "stack":
        # No member was trained on any of these examples, so that one "fold" of no training examples holds them all.
        nothing, fold = (np.array([], int),), np.zeros(len(fit), int)
        return stack([OutOfFold(member[fit], nothing, fold) for member in logits], labels[fit])(logits)
    return np.asarray(FUSIONS[way](logits))


def _split(labels, share: float, stages: Sequence[str], seed: int):
    """Examples that each stage fits on, equally many of each class, and those to judge by."""
    if not stages:
        return {}, np.arange(len(labels))
    if not 0 < share < 1:
        raise ValueError(f"held_out is {share}; give a share between 0 and 1")
    generator, places = np.random.default_rng(seed), np.zeros(len(labels), int)
    for label in np.unique(labels):
        own = generator.permutation(np.flatnonzero(labels == label))
        ends = np.linspace(0, share * len(own), len(stages) + 1).round().astype(int)
        for stage, (first, last) in enumerate(itertools.pairwise(ends), 1):
            places[own[first:last]] = stage
    parts = {stage: np.flatnonzero(places == index) for index, stage in enumerate(stages, 1)}
    judge = np.flatnonzero(places == 0)
    if not all(map(len, (*parts.values(), judge))):
        raise ValueError(
            f"held_out {share} of {len(labels)} examples leaves none to {' or '.join(stages)} on, or none to judge by; "
            "give another share"
        )
    return parts, judge
