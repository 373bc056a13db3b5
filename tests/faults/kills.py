"""Real tiny runs of each kind killed with SIGKILL at random moments, in and out of writing, until they end.

A run that was killed and run again must end in the bits of one that never was, with every line of metrics once. The
process that kills imports everything and computes nothing, so that each run is a fork of it and starts at once.
"""

import argparse
import dataclasses
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import grain  # noqa: F401, every fork would import it anew
import jax
import numpy as np
from training.small import Played, Points, arrays, experiment

from ft_jax.testing.quick import OPTIMISING_LITTLE
from ft_jax.training import Budget, CheckpointSpec, EvaluationSpec, Experiment, Use, fit
from ft_jax.tuning import population

SHORT = {"budget": Budget(steps=24, batch_size=8), "checkpoints": CheckpointSpec(every=2, keep=2)}


KINDS: dict[str, Experiment] = {
    "supervised": experiment(
        **SHORT, evaluation=EvaluationSpec(every=6, metric="accuracy", mode="max", keep_best=True)
    ),
    "stream": experiment(
        budget=Budget(steps=12, batch_size=8),
        checkpoints=CheckpointSpec(every=2, keep=2),
        data=Points(shifts=(0.0, 2.0)),
        method=(Use("incremental.ewc", weight=5.0), Use("incremental.replay", capacity=20, size=4)),
        evaluation=EvaluationSpec(every=6, memories=2),
    ),
    "population": experiment(
        **SHORT,
        method=(population({"optimizer.learning_rate": [0.01, 0.02, 0.05]}), Use("transfer.full")),
        evaluation=EvaluationSpec(every=6),
    ),
    "on-policy": experiment(**SHORT, data=Played(reuse=2, ahead=True), evaluation=EvaluationSpec(every=6)),
}
"""A stream keeps a buffer; a population's state has a trial's axis."""

TIMED = ("seconds", "examples_per_second", "tokens_per_second", "time", "wall")
PATIENCE = 120.0
"""Seconds after which a run hangs."""


@dataclasses.dataclass(frozen=True)
class Counted:
    """What came of the kills of one run.

    Attributes:
      kind: of the run.
      kills: how often it was killed.
      writing: of them, while a checkpoint was being written.
      lost: what differs from the run that was never killed, empty where nothing does.
    """

    kind: str
    kills: int
    writing: int
    lost: str = ""


def started(made: Experiment, folder: Path) -> int:
    """The process of a run, a fork that gives its last arrays."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        result = fit(made, run=folder, quiet=True)
        np.savez(folder / "unfinished.npz", *arrays(result.state))
        (folder / "unfinished.npz").rename(folder / "final.npz")
        status = 0
    finally:
        os._exit(status)


def ended(process: int, patience: float = PATIENCE) -> int:
    """Its exit status, negative where it was killed.

    Raises:
      TimeoutError: it hangs.
    """
    until = time.monotonic() + patience
    while time.monotonic() < until:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    raise TimeoutError(f"a run took more than {patience:.0f} seconds")


def writing(folder: Path) -> bool:
    """Whether a checkpoint is being written."""
    return any((folder / "checkpoints").glob("*/.writing-*"))


def killed(process: int, folder: Path, after: float, within: bool) -> bool:
    """Kills a run after so many seconds, and with `within` when it next writes; whether it had not ended before."""
    until = time.monotonic() + after
    while time.monotonic() < until + (PATIENCE if within else 0.0):
        if os.waitpid(process, os.WNOHANG)[0]:
            return False
        if time.monotonic() >= until and within and writing(folder):
            break
        time.sleep(0.0005)
    os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


def lines(folder: Path) -> list[str]:
    """The lines of training and evaluation without what is timed, in their order."""
    told = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if k not in TIMED} for line in told if line["kind"] != "event"]
    return [json.dumps(line, sort_keys=True) for line in kept]


def difference(whole: Path, other: Path) -> str:
    """What differs between a run and one that was killed, or nothing."""
    with np.load(whole / "final.npz") as one, np.load(other / "final.npz") as two:
        same = one.files == two.files and all(one[name].tobytes() == two[name].tobytes() for name in one.files)
    if not same:
        return "the last state has other bits"
    if lines(whole) != lines(other):
        return "metrics.jsonl has other lines"
    scores = [json.loads((folder / "summary.json").read_text())["scores"] for folder in (whole, other)]
    if scores[0] != scores[1]:
        return "summary.json has other scores"
    left = [path.name for path in (other / "checkpoints").glob("*/.*")]
    return f"{left[0]} is left behind" if left else ""


def runs(kinds: tuple[str, ...], seed: int, folder: Path, most: int = 4) -> Iterator[Counted]:
    """Endlessly, a run of each kind in turn, killed up to `most` times before it may end."""
    draw, whole, seconds = random.Random(seed), {}, {}
    for kind in kinds:
        whole[kind] = folder / f"whole-{kind}"
        begin = time.monotonic()
        assert ended(started(KINDS[kind], whole[kind])) == 0, f"the {kind} run fails without being killed"
        seconds[kind] = time.monotonic() - begin
    while True:
        for kind in kinds:
            place, kills, within = folder / "killed", 0, 0
            shutil.rmtree(place, ignore_errors=True)
            try:
                for _ in range(draw.randint(1, most)):
                    process = started(KINDS[kind], place)
                    aims = draw.random() < 0.5
                    if not killed(process, place, draw.uniform(0.2, 1.1) * seconds[kind] * (0.5 if aims else 1), aims):
                        break
                    kills, within = kills + 1, within + writing(place)
                status = ended(started(KINDS[kind], place))
                lost = difference(whole[kind], place) if status == 0 else f"it ends with status {status}"
            except TimeoutError as error:
                lost = str(error)
            yield Counted(kind, kills, within, lost)


def main() -> None:
    """Counts kills until there are enough or the time is over; a JSON line for each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--kills", type=int, default=100, help="kills in all")
    parser.add_argument("--most", type=int, default=4, help="kills of one run")
    parser.add_argument("--seconds", type=float, default=3600.0, help="after which no further run begins")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="few steps, compiled with few optimisations")
    options = parser.parse_args()
    if options.quick:
        jax.config.update(OPTIMISING_LITTLE, True)
        for kind, made in KINDS.items():
            KINDS[kind] = dataclasses.replace(made, budget=dataclasses.replace(made.budget, steps=6))
    until, kills = time.monotonic() + options.seconds, 0
    with tempfile.TemporaryDirectory() as folder:
        for counted in runs(tuple(options.kinds), options.seed, Path(folder), options.most):
            print(json.dumps(dataclasses.asdict(counted)), flush=True)
            kills += counted.kills
            if kills >= options.kills or time.monotonic() > until:
                return


if __name__ == "__main__":
    main()
