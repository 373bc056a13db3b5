"""One experiment of each family on real data: trains them, checks what they claim, writes one report.

``python -m experiments.tour`` runs all ten, ``python -m experiments.tour incremental/split_digits`` some.
"""

import argparse
import time
from pathlib import Path

from ft_jax.training.report import write_report

from .study import TUNED, folder, run, write_claims

TOUR = (
    "incremental/split_digits",
    "transfer/sentiment",
    "distillation/digits",
    "meta/digit_episodes",
    "multimodal/digit_captions",
    "rl/concise_answers",
    "tuning/rates",
    "attention/tweets",
    "ensemble/few_digits",
    "adaptive/bad_rate",
)


def main() -> None:
    """Prints each claim; exits non-zero where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=TOUR)
    parser.add_argument("--out", type=Path, default=Path("runs/tour"))
    arguments = parser.parse_args()
    found = {}
    for name in arguments.names:
        begin = time.perf_counter()
        _, found[name] = run(name, arguments.out)
        print(f"{name} ({time.perf_counter() - begin:.0f} s)")
        for claim in found[name]:
            print(f"  {'met   ' if claim.met else 'MISSED'} {claim.text}", flush=True)
    write_claims(arguments.out / "claims.jsonl", found)
    runs = [arguments.out / name / folder(TUNED, 0) for name in arguments.names]
    print(f"report: {write_report(runs, arguments.out / 'report.html')}")
    raise SystemExit(not all(claim.met for claims in found.values() for claim in claims))


if __name__ == "__main__":
    main()
