"""Records what peft's OSF makes of two layers in a few steps of SGD: ``python record_osf.py OUT.npz``.

Needs torch and peft.
"""

import sys
from importlib.metadata import version

import numpy as np
import peft
import torch

STEPS, RATE, KEPT = 5, 0.5, 2


class Layers(torch.nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.first = torch.nn.Linear(first.shape[1], first.shape[0], bias=False)
        self.second = torch.nn.Linear(second.shape[1], second.shape[0], bias=False)
        self.first.weight.data, self.second.weight.data = first, second

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def main() -> None:
    """Writes the file."""
    random = np.random.default_rng(0)
    tall, wide = (random.normal(size=size).astype(np.float32) for size in ((7, 5), (4, 7)))
    x = random.normal(size=(9, 5)).astype(np.float32)
    labels = random.integers(0, 4, 9)
    config = peft.OSFConfig(target_modules=["first", "second"], effective_rank=KEPT)
    model = peft.get_peft_model(Layers(torch.tensor(tall), torch.tensor(wide)), config)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], RATE)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(torch.tensor(x)), torch.tensor(labels))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    merged = model.merge_and_unload()
    versions = np.array([f"{name} {version(name)}" for name in ("torch", "peft")])
    np.savez(
        sys.argv[1], first=tall.T, second=wide.T, x=x, labels=labels.astype(np.int32), losses=losses,
        first_after=merged.first.weight.detach().numpy().T, second_after=merged.second.weight.detach().numpy().T,
        versions=versions,
    )  # fmt: skip


if __name__ == "__main__":
    main()
