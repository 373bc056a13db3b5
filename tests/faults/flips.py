"""Single bits flipped in what a run saved: each is noticed before anything of it is used."""

import random
import shutil
import tempfile
from pathlib import Path

from training.small import experiment

from ft_jax.training import Budget, CheckpointSpec, EvaluationSpec, Experiment, fit
from ft_jax.training.saved_folders import SavedFolders
from ft_jax.training.seal import Damaged
from ft_jax.training.serving import load_run
from ft_jax.training.specs import Images, Perceptron

POINTS = experiment(
    budget=Budget(steps=2, batch_size=8), checkpoints=CheckpointSpec(every=2), evaluation=EvaluationSpec()
)
DIGITS = Experiment("digits", Perceptron(widths=(8,)), Images(), budget=Budget(steps=1, batch_size=8))


def flipped(path: Path, draw: random.Random) -> int:
    """Flips a bit of a file, and says which."""
    content = bytearray(path.read_bytes())
    bit = draw.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return bit


def flips(count: int, seed: int) -> tuple[int, list[str]]:
    """So many flips in turns over all files of a checkpoint and of a kept model: how many were noticed, and the rest.

    A flip is noticed where reading ends in an error of this library, which says so in a sentence.
    """
    draw, silent = random.Random(seed), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fit(POINTS, run=folder / "points", quiet=True)
        fit(DIGITS, run=folder / "digits", quiet=True)
        saved = folder / "points" / "checkpoints" / "last"
        step = max(SavedFolders(saved, 1).steps())
        readers = (
            (saved / str(step), lambda: SavedFolders(saved, 1).read(step)),
            (folder / "digits" / "model", lambda: load_run(folder / "digits")),
        )
        for place, _ in readers:
            shutil.copytree(place, folder / "good" / place.name)
        for number in range(count):
            place, read = readers[number % 2]
            files = sorted(path for path in place.rglob("*") if path.is_file() and path.stat().st_size)
            path = files[number // 2 % len(files)]
            bit = flipped(path, draw)
            try:
                read()
                silent.append(f"bit {bit} of {path.name}")
            except (Damaged, ValueError) as error:
                if not isinstance(error, Damaged) and "has format" not in str(error):
                    silent.append(f"bit {bit} of {path.name}: {error}")
            shutil.copyfile(folder / "good" / place.name / path.relative_to(place), path)
    return count - len(silent), silent
