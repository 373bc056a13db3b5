"""``ft-jax sweep``: trials of an experiment, cross-validated, by any number of workers; the winner runs."""

import argparse
import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ft_jax.cli.entry import STOPPED, Parser, RunFailed, place
from ft_jax.cli.experiments import find, load
from ft_jax.cli.text import answered

DESCRIPTION = """Tries values of any fields of an experiment, names the winner and writes it as an experiment that runs.

The same command goes on with a sweep that was stopped; given again elsewhere over one --storage it helps with it.
Any field can be overridden for all trials as with ft-jax run: --budget.steps 50."""

AXIS = "PATH=LOW..HIGH, PATH=LOW..HIGH:log, PATH=one,two,three; ~VALUE after it is thought to be good"


def parser() -> Parser:
    """Of the command's words."""
    made = Parser(
        prog="ft-jax sweep",
        description=DESCRIPTION,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("name", metavar="NAME", help="an experiment of ft-jax list, or its file")
    made.add_argument("--space", nargs="+", metavar="AXIS", required=True, help=AXIS)
    made.add_argument("--trials", type=int, help="how many; a grid has its own number")
    made.add_argument("--sampler", default="tpe", help="tpe, random, grid, cma or gp")
    made.add_argument("--pruner", default="none", help="none, wilcoxon (over folds), median or hyperband")
    made.add_argument("--points", type=int, default=3, help="values of a range in a grid")
    made.add_argument("--startup", type=int, default=10, help="trials before results count")
    made.add_argument("--search-seed", type=int, default=0, help="of the search; the experiment's is --seed")
    made.add_argument("--folds", type=int, default=1, help="judge each trial by the mean over so many folds")
    made.add_argument("--fold-kind", help="plain, stratified, grouped or stratified-grouped")
    made.add_argument("--group", metavar="COLUMN", help="what belongs together stays in one fold")
    made.add_argument("--nested", type=int, default=0, metavar="K", help="judge the search itself on K outer folds")
    made.add_argument(
        "--objective", nargs="+", default=(), help="metrics (max:NAME, min:NAME), parameters, seconds, latency"
    )
    made.add_argument("--workers", type=int, default=1, help="processes")
    made.add_argument(
        "--together", type=int, default=1, help="trials in one program where numbers alone differ; 0: as memory takes"
    )
    made.add_argument("--storage", help="sqlite:///FILE, postgresql://...; a journal file in the folder by default")
    made.add_argument("--out", type=place, help="the sweep's folder; runs/sweeps/NAME by default")
    made.add_argument("--json", action="store_true", help="print the winner as one JSON object, the rest on stderr")
    made.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    made.add_argument("--outer", type=int, help=argparse.SUPPRESS)
    return made


def command(words: Sequence[str]) -> int:
    """Runs or goes on with a sweep."""
    return answered(_command, words)


def _command(words: Sequence[str]) -> tuple[int, dict[str, Any]]:
    """The status, and what there is to tell of the winner."""
    options, changes = parser().parse_known_args(list(words))
    if options.workers < 1 or options.nested < 0 or options.nested == 1:
        raise ValueError(
            f"--workers is {options.workers} and --nested {options.nested}; give at least 1 worker, and 0 or at least "
            "2 outer folds"
        )
    file = find(options.name)
    sweep = sweep_of(options, file, changes)
    sweep.check()
    if options.outer is not None:
        sweep = outer(sweep, options, options.outer)
    if options.worker is not None:
        return _work(sweep, options.worker), {}
    if options.outer is None and not (sweep.folder / "journal.log").exists():
        from ft_jax.training.sweeps import try_out

        try_out(sweep)
    scores = []
    for index in range(options.nested):
        inner = outer(sweep, options, index)
        if not (won := _whole(inner, options, [*words, "--outer", str(index)])):
            return STOPPED, {}
        scores.append(_judge(inner, options, index, won))
        print(f"outer fold {index}: {scores[-1]:.4g} with {won}", flush=True)
    won = _whole(sweep, options, list(words))
    if not won:
        return STOPPED, {}
    return 0, _tell(sweep, won, file, changes, scores)


def sweep_of(options: argparse.Namespace, file: Path, changes: Sequence[str]) -> Any:
    """The sweep that words describe."""
    from ft_jax.training.overrides import override
    from ft_jax.training.sweeps import Sweep
    from ft_jax.tuning.search import Search, parse_space

    return Sweep(
        experiment=override(load(file), changes),
        space=parse_space(options.space),
        trials=options.trials,
        search=Search(options.sampler, options.pruner, options.search_seed, options.points, options.startup),
        folds=options.folds,
        fold_kind=options.fold_kind,
        group=options.group,
        objectives=tuple(options.objective),
        together=options.together,
        out=options.out,
        storage=options.storage,
    )


def outer(sweep: Any, options: argparse.Namespace, index: int) -> Any:
    """The sweep inside an outer fold: over what the fold trains on, in a folder and study of its own."""
    from ft_jax.training.sweeps import Folded

    data = Folded(sweep.experiment.data, options.nested, index, sweep.fold_kind, None, sweep.fold_seed + 1)
    name = f"{sweep.experiment.name}-outer-{index}"
    experiment = dataclasses.replace(sweep.experiment, name=name, data=data)
    return dataclasses.replace(sweep, experiment=experiment, out=sweep.folder / f"outer-{index}")


def _judge(sweep: Any, options: argparse.Namespace, index: int, won: Any) -> float:
    """The winner of an outer fold's sweep, trained on all of the fold's examples and judged on those held out."""
    from ft_jax.training.fit import fit
    from ft_jax.training.sweeps.sweep import metric_of

    experiment = dataclasses.replace(sweep.with_values(won.values), out=str(sweep.folder / "winner"))
    experiment = dataclasses.replace(experiment, evaluation=dataclasses.replace(experiment.evaluation, on=None))
    name, mode = sweep.goals()[0]
    return metric_of(fit(experiment, quiet=True).scores, name, None, mode)


def _whole(sweep: Any, options: argparse.Namespace, words: list[str]) -> Any:
    """A sweep to its end by all workers; its winner, or None where it was interrupted."""
    from ft_jax.training.sweeps import winner

    study = sweep.open()
    slots = study.plan(sweep.trials)
    finished = True
    if options.workers > 1:
        finished = _processes(words, options.workers)
    # What a dead worker left is taken up here.
    if not finished or _work(sweep, options.workers) != 0:
        print(f"stopped; the same command goes on with {_counts(study, slots)}", file=sys.stderr)
        return None
    print(_counts(study, slots), flush=True)
    won = winner(sweep, study.study)
    if won is None:
        reasons = {trial.user_attrs.get("why", "") for trial in study.study.trials} - {""}
        raise RunFailed(f"none of {slots} trials ended well: {'; '.join(sorted(reasons))[:400]}")
    return won


def _counts(study: Any, slots: int) -> str:
    told = study.account(slots)
    return f"{slots} trials: {', '.join(f'{count} {state}' for state, count in told.items() if count)}"


def _processes(words: list[str], count: int) -> bool:
    """Workers as processes of this computer; False where a person stopped them."""
    line = [sys.executable, "-m", "ft_jax.cli", "sweep", *words, "--worker"]
    running = [
        subprocess.Popen([*line, str(index)], stdout=sys.stderr if "--json" in words else None)
        for index in range(count)
    ]
    try:
        ended = [process.wait() for process in running]
    except KeyboardInterrupt:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
        return False
    for index, status in enumerate(ended):
        if status not in (0, STOPPED):
            print(f"warning: worker {index} ended with status {status}; its trials are taken up", file=sys.stderr)
    return STOPPED not in ended


def _work(sweep: Any, index: int) -> int:
    from ft_jax.training.sweeps import work
    from ft_jax.tuning.search import Worker

    done = work(sweep, Worker(index=index), lambda line: print(line, flush=True), tried=True)
    return 0 if done else STOPPED


def _tell(sweep: Any, won: Any, file: Path, changes: Sequence[str], scores: Sequence[float]) -> dict[str, Any]:
    """Prints the winner and writes its experiment and the page; the same as a dict."""
    import numpy as np

    from ft_jax.training.run_folder import finite
    from ft_jax.training.sweeps import write_sweep_report, write_winner

    made = write_winner(sweep, won, file, sweep.folder / "winner.py", tuple(changes))
    run = f"ft-jax run {made}"
    print(f"winner: {won}")
    if len(won.front) > 1:
        print(f"front: trials {', '.join(map(str, won.front))}; none beats another in everything")
    if scores:
        deviation = np.std(scores, ddof=1)
        print(
            f"judged by {len(scores)} outer folds that its choice never saw: {np.mean(scores):.4g} "
            f"(deviation {deviation:.2g})"
        )
    print(f"train it: {run}")
    page = write_sweep_report(sweep, sweep.open(), sweep.folder / "report.html", run)
    print(f"report: {page}")
    told = {"sweep": str(sweep.folder), "winner": dataclasses.asdict(won), "outer": list(scores)}
    return finite({**told, "experiment": str(made), "report": str(page)})
