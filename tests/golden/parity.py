"""Records every reference again with the libraries installed now, compares it, and runs ``ft-jax parity``.

``make parity`` runs it in an environment of its own with torch, transformers, peft and trl.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from ft_jax.assets import GEMMA3_270M, MINILM, SMOLLM2, resolve
from ft_jax.cli import parity

HERE = Path(__file__).parent
RECORDED = ("plateau.json", "trl_losses.json", "uld.json")
TOLERANCE = 1e-3
"""Relative to each array's largest value; kernels differ between versions and processors."""


def arrays(path: Path) -> dict[str, np.ndarray]:
    """The numbers in a recorded file."""
    if path.suffix == ".npz":
        stored = np.load(path, allow_pickle=False)
        return {name: stored[name] for name in stored.files if stored[name].dtype.kind in "fiu"}
    if path.suffix == ".safetensors":
        return load_file(path)
    record = json.loads(path.read_text(encoding="utf-8"))
    cases = record.get("cases")
    if cases is None:
        return dict(_numbers("", record))
    return {f"{at}/{field}": np.asarray(case[field]) for at, case in enumerate(cases) for field in ("metrics", "rates")}


def _numbers(name: str, value):
    """Every array of numbers in nested dicts, by its path."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _numbers(f"{name}/{key}", one)
    elif not isinstance(value, str):
        yield name, np.asarray(value, np.float64)


def difference(old: Path, new: Path) -> float:
    """The largest difference of any array, relative to its largest value; infinite where the arrays are others."""
    before, after = arrays(old), arrays(new)
    if {name: x.shape for name, x in before.items()} != {name: x.shape for name, x in after.items()}:
        return float("inf")
    gaps = (
        np.abs(before[name] - after[name]).max(initial=0) / max(np.abs(before[name]).max(initial=0), 1e-12)
        for name in before
    )
    return float(max(gaps, default=0.0))


def main() -> None:
    """Prints a row a file; exits non-zero where one differs."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "golden"
        shutil.copytree(HERE, copy)
        calls = {
            "record_models.py": ["--minilm", str(resolve(MINILM)), "--smollm2", str(resolve(SMOLLM2))],
            "record_decoders.py": [str(copy / "decoders"), "--gemma3", str(resolve(GEMMA3_270M))],
            "record_peft.py": [str(copy)],
            "record_peft_files.py": [str(copy)],
            "record_adalora.py": [str(copy / "adalora.npz")],
            "record_peft_ties.py": [str(copy)],
            "record_peft_attention.py": [str(copy)],
            "record_trl_losses.py": [str(copy / "trl_losses.json")],
            "record_osf.py": [str(copy / "osf.npz")],
            "record_uld.py": [str(copy / "uld.json")],
            "check_peft_files.py": [str(HERE)],
            "check_adapters.py": [],
            "record_peft_names.py": [str(copy)],
            "record_encoders.py": [],
            "record_vision.py": [],
            "record_audio.py": [],
            "check_exports.py": [],
            "record_kd.py": [str(copy)],
            "record_clip.py": [str(copy / "clip.npz")],
            "record_trl.py": [str(copy / "trl_dpo.npz")],
            "record_plateau.py": [str(copy / "plateau.json")],
        }
        for script, arguments in calls.items():
            print(f"recording with {script}", flush=True)
            subprocess.run([sys.executable, str(copy / script), *arguments], check=True)
        # It trains the tests' own small runs, which are found from where it stands.
        subprocess.run([sys.executable, str(HERE / "check_run_exports.py")], check=True)
        worst = 0.0
        recorded = [path for path in sorted(HERE.rglob("*")) if path.suffix in (".npz", ".safetensors", ".json")]
        for path in (path for path in recorded if path.suffix != ".json" or path.name in RECORDED):
            gap = difference(path, copy / path.relative_to(HERE))
            worst = max(worst, gap)
            print(f"{'equal ' if gap <= TOLERANCE else 'DIFFERS'} {path.relative_to(HERE)}: {gap:.1e}")
    checkpoints = [str(path.parent) for path in sorted(HERE.rglob("config.json"))]
    raise SystemExit(parity.command(checkpoints) or worst > TOLERANCE)


if __name__ == "__main__":
    main()
