"""The demo: MiniLM learns sentiment by a composition of methods, and classifies three sentences.

``python -m experiments.demo "A sentence." "Another."`` trains the head alone and then the composition, says the score
before, with the head only and after, classifies the sentences, and writes the report. Run again, it goes on where it
was stopped, or shows what it found. ``--seeds 3`` adds other seeds and says by how much the composition wins.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax.data import encode
from ft_jax.data.tokens import fit as fitting
from ft_jax.training import Result
from ft_jax.training.report import write_report
from ft_jax.training.run_folder import read_sealed, write_sealed

from .study import TUNED, folder, load, run, write_claims

NAME = "transfer/sentiment"
SENTENCES = (
    "A moving, beautifully acted film that stays with you for days.",
    "Two hours of my life that nobody will give back to me.",
    "Not the masterpiece some critics saw in it, but never dull.",
)


def classify(result: Result, sentences: list[str], length: int) -> list[dict]:
    """Each sentence with the likelier class and its probability."""
    tokens = fitting(encode(result.model.tokenizer, sentences), length, "truncate")
    ids = np.full((len(tokens), length), result.model.pad_token, np.int32)
    for row, one in enumerate(tokens):
        ids[row, : len(one.ids)] = one.ids
    lengths = np.array([len(one.ids) for one in tokens])
    batch = {"input_ids": ids, "attention_mask": (np.arange(length) < lengths[:, None]).astype(np.int32)}
    probabilities = jax.nn.softmax(jax.jit(result.model.apply)(result.params, batch).logits)
    names = ("negative", "positive")
    return [
        {"text": text, "prediction": names[int(jnp.argmax(row))], "probability": float(jnp.max(row))}
        for text, row in zip(sentences, probabilities, strict=True)
    ]


def keep(summary: Path, head_only: Mapping[str, Any], examples: Sequence[Mapping[str, Any]]) -> None:
    """Adds to a run's summary, for its report, the scores of the head alone and classified sentences."""
    told = read_sealed(summary)
    scores = {"before": told["scores"]["before"], "head_only": head_only, **told["scores"]}
    write_sealed(summary, {**told, "scores": scores, "examples": list(examples)})


def main() -> None:
    """Trains or resumes, and shows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sentences", nargs="*", default=list(SENTENCES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    options = parser.parse_args()
    summary = options.out / NAME / folder(TUNED, 0) / "summary.json"
    if summary.is_file():
        print(f"finished already; this is what {options.out} holds (remove it to train anew)")
    results, claims = run(NAME, options.out, quiet=False, seeds=options.seeds)
    tuned, head = results[TUNED][0], results["head only"][0]
    examples = classify(tuned, list(options.sentences), load(NAME).experiment.data.length)
    keep(summary, head.scores["after"], examples)

    (name,) = tuned.scores["after"]
    before, alone, after = (
        scores[name]["accuracy"] for scores in (tuned.scores["before"], head.scores["after"], tuned.scores["after"])
    )
    print(f"\naccuracy on held-out {name}: {before:.3f} before, {alone:.3f} with the head only, {after:.3f} after\n")
    for example in examples:
        print(f"{example['prediction']} ({example['probability']:.2f})  {example['text']}")
    print()
    write_claims(options.out / "claims.jsonl", {NAME: claims})
    for claim in claims:
        print(f"{'met   ' if claim.met else 'MISSED'} {claim.text}")
    print(f"report: {write_report([summary.parent], options.out / 'report.html')}")
    raise SystemExit(not all(claim.met for claim in claims))


if __name__ == "__main__":
    main()
