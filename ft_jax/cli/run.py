"""``ft-jax run``: an experiment by name or file, with overrides of any field."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from ft_jax.cli.entry import STOPPED, RunFailed
from ft_jax.cli.experiments import find, load
from ft_jax.cli.text import columns

USAGE = """ft-jax run NAME [--field.path value ...] [--dry-run] [--debug]

Trains an experiment into its run folder and writes report.html there. The same command resumes a run that
was stopped, and says so where it is finished.

  NAME                          an experiment of ft-jax list, or a file that defines experiment = Experiment(...)
  --budget.steps 50             any field of the experiment, parsed by its type
  --method "transfer.lora(rank=8)" "incremental.ewc"   other methods, outermost first; "+..." adds to its own
  --method.transfer.lora.rank 4 any option of its methods
  --hyper.transfer.lora.alpha 8 any number in the state, by method and number
  --hyper_at.200.optimizer.learning_rate 1e-4          the same after 200 updates; nothing compiles for it
  --json                        print the summary as one JSON object
  --dry-run                     show shapes, parameters, memory and the composition; train nothing
  NAME --help                   list the fields with their types and values"""


def command(words: Sequence[str]) -> int:
    """Trains an experiment, or shows what would be trained."""
    flags = {word for word in words if word in ("--dry-run", "--help", "-h", "--json")}
    rest = [word for word in words if word not in flags]
    if not rest:
        if flags & {"--help", "-h"}:
            print(USAGE)
            return 0
        raise ValueError("ft-jax run needs an experiment's name or file; ft-jax list shows the names")
    if rest[0].startswith("-"):
        raise ValueError(f"{rest[0]!r} stands before the experiment; write ft-jax run NAME --field.path value")
    file = find(rest[0])

    from ft_jax.training.overrides import override

    written = load(file)
    experiment = own(written, override(written, rest[1:]), rest[1:])
    if flags & {"--help", "-h"}:
        print(field_help(experiment))
        return 0
    experiment.check()
    if "--dry-run" in flags:
        from ft_jax.cli.dry_run import dry_run

        print(dry_run(experiment))
        return 0
    return _train(experiment, ["ft-jax", "run", *rest], "--json" in flags)


NO_CHANGE = ("out", "log_every", "checkpoints", "parallelism", "name", "doc")
"""Fields that change nothing of what an experiment expects of its result."""


def own(written: Any, changed: Any, words: Sequence[str]) -> Any:
    """A changed experiment without what its file expects of the unchanged one, unless the words say what to expect."""
    if any(word.startswith("--expect") for word in words):
        return changed
    differ = [
        field.name
        for field in dataclasses.fields(changed)
        if field.name not in NO_CHANGE and getattr(written, field.name) != getattr(changed, field.name)
    ]
    return dataclasses.replace(changed, expect={}) if differ else changed


def field_help(experiment: Any) -> str:
    """Every field with its type, its value and what it is."""
    from ft_jax.training.overrides import fields

    rows: list[tuple[str, str] | str] = []
    group = None
    for field in fields(experiment):
        head = field.path.partition(".")[0] if "." in field.path else "experiment"
        if head != group:
            rows.append(head)
            group = head
        told = f"{field.kind} = {field.shown}" if field.settable else "(set in the file)"
        rows.append((f"--{field.path}", f"{told}  {field.help}".rstrip().replace("`", "")))
    return f"{experiment.name}: fields, types and values\n\n{columns(rows)}\n\nft-jax run --help says more"


def _train(experiment: Any, told: list[str], as_json: bool = False) -> int:
    from ft_jax.training.fit import fit
    from ft_jax.training.report import write_report
    from ft_jax.training.result import Diverged
    from ft_jax.training.run_folder import finite
    from ft_jax.training.saved_folders import NotSaved

    try:
        result = fit(experiment, command=told)
    except Diverged as error:
        report = write_report([experiment.folder], experiment.folder / "report.html")
        raise RunFailed(f"{error}; report: {report}") from error
    except NotSaved as error:
        raise RunFailed(str(error)) from error
    report = write_report([result.run], result.run / "report.html")
    if as_json:
        print(json.dumps({"run": str(result.run), "report": str(report), **finite(result.summary)}, ensure_ascii=False))
    else:
        print(outcome(result, report))
    return 0 if result.status == "finished" else STOPPED


def outcome(result: Any, report: Any) -> str:
    """What a run came to: scores before and after, expectations, where things are."""
    from ft_jax.training.report.data import headline, read_run
    from ft_jax.training.trials import Winner

    lines = []
    if result.status == "finished" and result.compilations == 0:
        lines.append(f"{result.run} was finished already; --out FOLDER trains anew")
    for score in headline(read_run(result.run)):
        values = " → ".join(f"{value:.3f} {phase.replace('_', ' ')}" for phase, value in score.by_phase.items())
        lines.append(f"{score.metric} on {score.set}: {values}")
    if "winner" in result.summary:
        lines.append(str(Winner(**result.summary["winner"])))
    lines += [f"expected {one}" for one in result.outcomes]
    if result.status != "finished":
        lines.append(f"{result.status}; the same command goes on from the last checkpoint")
    lines.append(f"report: {report}")
    return "\n".join(lines)
