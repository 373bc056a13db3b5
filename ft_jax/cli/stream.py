"""``ft-jax stream``: answers lines as they come, and learns from those that have a label."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ft_jax.cli.experiments import find, load

USAGE = """ft-jax stream RUN|FILE [--from PATH] [--out FOLDER] [--every N] [--field.path value ...]

Answers every line of JSON with a line of JSON, and learns from each that has a label. Killed at any moment, the same
command goes on with the same parameters and the same memory, bit for bit.

  RUN                           the folder of a finished run, whose model goes on learning what it learned there
  FILE                          an experiment of ft-jax list, or a file that defines experiment = Experiment(...)
  --from PATH                   a file that grows, or a folder of files, followed until stopped; else standard input
  --end                         stop where everything that is there has been read
  --out FOLDER                  where the stream's state is kept; streams/NAME without it
  --every N                     examples learned between two checkpoints, 50 without it
  --method, --optimizer.learning_rate, ...   any field of the experiment, as in ft-jax run

A line is {"text": ...} or {"images": ...}, with "label" (a class's name or number) where it is to be learned from. A
line that can't be read is answered with {"error": ...}, and nothing is learned from it."""


def command(words: Sequence[str]) -> int:
    """Serves a stream until it ends or is told to stop."""
    if not words or words[0] in ("-h", "--help"):
        if not words:
            raise ValueError("ft-jax stream needs a run's folder, or an experiment's name or file; see its --help")
        print(USAGE)
        return 0
    if words[0].startswith("-"):
        raise ValueError(f"{words[0]!r} stands before the run or experiment; write ft-jax stream NAME --from FILE")
    options, rest = _options(words[1:])

    from ft_jax import data
    from ft_jax.training.online import learner_of, of_run, serve
    from ft_jax.training.online.serve import Stand
    from ft_jax.training.overrides import override
    from ft_jax.training.process import set_up_process
    from ft_jax.training.run_folder import describe, finite
    from ft_jax.training.signals import interruptions

    source = options["from"]
    if source != "-" and not Path(source).exists():
        raise FileNotFoundError(f"there is no file or folder {source} to follow; give one that exists")
    set_up_process()
    written = of_run(words[0]) if Path(words[0]).is_dir() else load(find(words[0]))
    experiment = override(written, rest)
    learner, plan, told = learner_of(experiment)
    folder = Path(options["out"] or Path("streams") / experiment.name.removeprefix("stream/"))
    stand = Stand(
        folder,
        _about(finite(describe(experiment)), learner, source),
        learner,
        plan.composition.names,
        every=int(options["every"]),
    )
    try:
        if stand.number:
            told.append(f"goes on after {stand.number} lines, {stand.replayed} examples from the journal")
        for sentence in told:
            print(sentence, file=sys.stderr)
        learner.warm(_warm(plan))
        with interruptions() as stop:
            lines = data.follow(source, stand.place, stop=stop, end="end" in options)
            served = serve(learner, _until(lines, stop), stand, _write, folder / "log.jsonl")
    finally:
        stand.close()
    print(served, file=sys.stderr)
    return 0


def _options(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The stream's own options and the words that are left."""
    options: dict[str, Any] = {"from": "-", "out": None, "every": 50}
    rest, at = [], 0
    while at < len(words):
        name = words[at].removeprefix("--")
        if words[at] == "--end":
            options["end"] = True
        elif words[at].startswith("--") and name in options:
            if at + 1 == len(words):
                raise ValueError(f"--{name} needs a value; see ft-jax stream --help")
            options[name] = words[at + 1]
            at += 1
        else:
            rest.append(words[at])
        at += 1
    if not str(options["every"]).isdigit() or int(options["every"]) < 1:
        raise ValueError(f"--every is {options['every']}; give a whole number of at least 1")
    return options, rest


def _about(described: dict[str, Any], learner: Any, source: str) -> dict[str, Any]:
    """What a stream's folder is a stream of."""
    kept = ("model", "method", "optimizer", "seed", "hyper")
    return {**{name: described[name] for name in kept}, "classes": list(learner.classes), "source": source}


def _warm(plan: Any) -> dict[str, Any]:
    image = getattr(plan.model.config, "image", None)
    if image is None:
        return {"text": "a"}
    import numpy as np

    return {"images": np.zeros(image).tolist()}


def _until(lines, stop):
    """The lines up to the one after which the stream was told to stop; empty ones are no lines."""
    for line in lines:
        if line.text.strip():
            yield line
        if stop():
            return


def _write(answer: str) -> None:
    print(answer, flush=True)
