"""Counts of compiled steps that don't depend on the machine; a test compares them with those recorded.

``python -m benchmarks.counts`` records them again, for a change that is meant.
"""

import json
from pathlib import Path

import jax

from .programs import build
from .shapes import shape

RECORDED = Path(__file__).with_name("counts.json")

STEPS = {
    "lora": {"method": "lora", "forward": "two_pass"},
    "lora merged": {"method": "lora", "forward": "merged"},
    "lora rematerialised": {"method": "lora", "forward": "two_pass", "remat": "full"},
    "full": {"method": "full"},
    "qlora": {"method": "qlora", "forward": "two_pass"},
    "dpo": {"method": "dpo", "forward": "two_pass"},
    "composed": {"method": "composed", "forward": "two_pass"},
    "population of 4": {"method": "lora", "forward": "two_pass", "members": 4},
    "encoder with dropout": {"method": "lora", "forward": "two_pass", "size": "tiny-encoder"},
}
"""Steps by name, on the shape ``tiny`` where none is said."""


def counts(
    method: str, forward: str = "auto", remat: str = "none", members: int = 0, size: str = "tiny"
) -> dict[str, int]:
    """``flops`` by XLA's count of what was asked for; ``bytes_accessed`` and ``temporary_bytes`` as compiled."""
    step = build(method, shape(size, remat=remat), rank=4, forward=forward, members=members, abstract=True)
    lowered = step.lowered()
    compiled = lowered.compile()
    return {
        "flops": int(lowered.cost_analysis()["flops"]),
        "bytes_accessed": int(compiled.cost_analysis()["bytes accessed"]),
        "temporary_bytes": int(compiled.memory_analysis().temp_size_in_bytes),
    }


def main() -> None:
    """Writes the file."""
    found = {name: counts(**settings) for name, settings in STEPS.items()}
    told = {"jax": jax.__version__, "backend": jax.default_backend(), "steps": found}
    RECORDED.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
