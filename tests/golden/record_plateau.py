"""Records what torch's ReduceLROnPlateau does to a rate: ``python record_plateau.py OUT.json`` (needs torch)."""

import json
import sys

import torch

CASES = [
    {"mode": "min", "factor": 0.5, "patience": 2, "threshold": 1e-4, "cooldown": 0, "min_lr": 0.0},
    {"mode": "min", "factor": 0.1, "patience": 0, "threshold": 0.05, "cooldown": 2, "min_lr": 1e-4},
    {"mode": "max", "factor": 0.3, "patience": 1, "threshold": 0.01, "cooldown": 1, "min_lr": 0.0},
]


def rates(case: dict, metrics: list[float]) -> list[float]:
    """The rate after each metric, from 0.1."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, threshold_mode="rel", eps=0.0, **case)
    result = []
    for metric in metrics:
        scheduler.step(metric)
        result.append(optimizer.param_groups[0]["lr"])
    return result


def main() -> None:
    """Writes cases, metrics and rates."""
    generator = torch.Generator().manual_seed(0)
    lines = []
    for case in CASES:
        noise = torch.rand(40, generator=generator)
        trend = torch.linspace(1.0, 0.4, 40) if case["mode"] == "min" else torch.linspace(0.4, 1.0, 40)
        metrics = [float(x) for x in (trend + 0.2 * noise)]
        lines.append({**case, "metrics": metrics, "rates": rates(case, metrics)})
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump({"torch": torch.__version__.partition("+")[0], "cases": lines}, file, indent=1)


if __name__ == "__main__":
    main()
