"""Records torch-uncertainty's calibration: ``python record_calibration.py OUT.npz`` (torch, torch-uncertainty 0.13).

Its modules are imported without its package's ``__init__``, which wants an image library.
"""

import importlib.metadata
import sys
import types
from pathlib import Path

import numpy as np
import torch


def bare(name: str, folder: Path) -> None:
    """A package that can be imported from and runs nothing itself."""
    module = types.ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module


def main() -> None:
    """Writes logits and labels of 200 examples with what came of them."""
    root = Path(importlib.metadata.distribution("torch-uncertainty").locate_file("torch_uncertainty"))
    for part in ("", "metrics", "metrics/classification", "post_processing", "post_processing/calibration",
                 "post_processing/conformal"):  # fmt: skip
        bare("torch_uncertainty" + "".join(f".{step}" for step in part.split("/") if step), root / part)
    from torch_uncertainty.metrics.classification.brier_score import BrierScore
    from torch_uncertainty.metrics.classification.categorical_nll import CategoricalNLL

    calibration = next((root / "metrics/classification/calibration").glob("*calibration_error.py"))
    bare("torch_uncertainty.metrics.classification.calibration", calibration.parent)
    from torch_uncertainty.metrics.classification.calibration.calibration_error import CalibrationError
    from torch_uncertainty.post_processing.abstract import PostProcessing

    sys.modules["torch_uncertainty.post_processing"].PostProcessing = PostProcessing
    from torch_uncertainty.post_processing.calibration.temperature_scaler import TemperatureScaler
    from torch_uncertainty.post_processing.calibration.vector_scaler import VectorScaler

    sys.modules["torch_uncertainty.post_processing"].TemperatureScaler = TemperatureScaler
    sys.modules["torch_uncertainty.post_processing.calibration"].TemperatureScaler = TemperatureScaler
    from torch_uncertainty.post_processing.conformal.aps import ConformalClsAPS
    from torch_uncertainty.post_processing.conformal.raps import ConformalClsRAPS

    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 200)
    logits = np.float32(3 * generator.normal(size=(200, 4)) + 2.5 * np.eye(4)[labels])
    x, y = torch.tensor(logits), torch.tensor(labels)
    probabilities = x.softmax(-1)
    found: dict[str, np.ndarray] = {"logits": logits, "labels": labels}
    for name, metric in {
        "brier": BrierScore(num_classes=4), "nll": CategoricalNLL(),
        "ece": CalibrationError(task="multiclass", num_bins=15, num_classes=4),
    }.items():  # fmt: skip
        metric.update(probabilities, y)
        found[name] = np.array(float(metric.compute()))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=200)
    for name, scaler in {"temperature": TemperatureScaler(lr=0.1, max_iter=500),
                         "vector": VectorScaler(num_classes=4, lr=0.1, max_iter=2000)}.items():  # fmt: skip
        scaler.fit(loader, progress=False)
        found[name] = scaler(x).detach().log_softmax(-1).numpy()
    for name, sets in {
        "aps": ConformalClsAPS(alpha=0.1, model=torch.nn.Identity(), randomized=False, enable_ts=False),
        "raps": ConformalClsRAPS(
            alpha=0.1, model=torch.nn.Identity(), randomized=False, penalty=0.2, regularization_rank=2
        ),
    }.items():
        found[name] = sets._calculate_all_labels(probabilities).numpy()
    for package in ("torch-uncertainty", "torch"):
        found[f"version_{package}"] = np.array(importlib.metadata.version(package).partition("+")[0])
    np.savez_compressed(sys.argv[1], **found)
    print({name: value.shape for name, value in found.items()})


if __name__ == "__main__":
    main()
