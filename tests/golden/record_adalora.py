"""Records what peft's ``RankAllocator`` does with given gradients: ``python record_adalora.py FILE``.

Needs torch and peft (recorded with peft 0.21.2). Three projections of a toy begin at random triplets; in each step
random gradients are given, plain gradient descent makes the update, and ``update_and_allocate`` follows. Recorded are
the numbers, the gradients, the averages, the budget and the values after each step.
"""

import sys

import numpy as np
import torch
from peft import AdaLoraConfig, get_peft_model

SIZES = {"one": (5, 7), "two": (7, 4), "three": (4, 6)}
RATE = 0.1
SCHEDULE = {"total_step": 24, "tinit": 3, "tfinal": 5, "deltaT": 2}
NUMBERS = {"beta1": 0.8, "beta2": 0.7}


class Toy(torch.nn.Module):
    """Projections one after another."""

    def __init__(self):
        super().__init__()
        for name, (inputs, outputs) in SIZES.items():
            setattr(self, name, torch.nn.Linear(inputs, outputs, bias=False))

    def forward(self, x):
        """Their outputs, one of the next."""
        return self.three(self.two(self.one(x)))


def main() -> None:
    """Writes the file."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    config = AdaLoraConfig(init_r=4, target_r=1, target_modules=list(SIZES), lora_alpha=6, **SCHEDULE, **NUMBERS)
    model = get_peft_model(Toy(), config)
    named = {
        name.removeprefix("base_model.model.").removesuffix(".default"): x
        for name, x in model.named_parameters()
        if x.requires_grad
    }
    result = {}
    with torch.no_grad():
        for name, x in named.items():
            x.copy_(0.5 * torch.randn(x.shape, generator=generator))
            result[f"start/{name}"] = x.numpy().copy()
    allocator = model.base_model.rankallocator
    for step in range(1, SCHEDULE["total_step"] + 1):
        for name, x in named.items():
            x.grad = torch.randn(x.shape, generator=generator)
            result[f"{step}/gradient/{name}"] = x.grad.numpy().copy()
            with torch.no_grad():
                x.sub_(RATE * x.grad)
        model.base_model.update_and_allocate(step)
        result[f"{step}/budget"] = np.array(allocator.budget_schedule(step)[0])
        for name, x in named.items():
            if "lora_E" in name:
                result[f"{step}/values/{name}"] = x.detach().numpy().copy()
        for what in ("ipt", "unc"):
            for name, x in getattr(allocator, f"exp_avg_{what}").items():
                short = name.removesuffix(".default")
                result[f"{step}/{what}/{short}"] = x.numpy().copy()
    result |= {f"end/{name}": x.detach().numpy() for name, x in named.items()}
    result |= {f"schedule/{name}": np.array(x) for name, x in (SCHEDULE | NUMBERS).items()}
    np.savez_compressed(sys.argv[1], **result)


if __name__ == "__main__":
    main()
