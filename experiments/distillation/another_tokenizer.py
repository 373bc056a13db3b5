"""SmolLM2-135M learns to write newspaper editorials beside Gemma 3 270M, which cuts them into other tokens.

With the same LoRA, rate, steps and sentences the student learns the sentences alone (plain), and beside them what the
teacher says of the same bytes: by sorted values (ULD, Boizard et al. 2024, arXiv:2402.12030), or by the tokens that
both vocabularies have and sorted values of the rest (trl's hybrid). Sentences are few, so that a teacher could say more
of them than they do.

``python -m experiments.distillation.another_tokenizer --out docs/results/another_tokenizer.jsonl`` trains all and
records losses on held-out sentences and how each goes on with their beginnings; ``python docs/distillation_tables.py``
puts them into docs/distillation.md.
"""

import argparse
import dataclasses
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax import data, models
from ft_jax.assets import GEMMA3_270M, SMOLLM2
from ft_jax.core import Method, compose, merge
from ft_jax.data import Dataset
from ft_jax.data.alignment import token_bytes
from ft_jax.distillation import uld
from ft_jax.models import Model
from ft_jax.training import Feed
from ft_jax.training.own_data import Written

from ..study import Claim, tell, write_lines
from . import writing

LENGTH, NEW = 48, 20
"""Tokens of a sentence, and of what is written after its beginning."""

TOP = 256
"""Values of a distribution that are compared by themselves."""

BEGINNING, SHOWN = 6, 3
"""Words of a held-out sentence that are gone on with, and sentences whose goings-on are recorded."""


def sentences(split: str, most: int) -> list[str]:
    """Some sentences of newspaper editorials that are long enough to be gone on with."""
    found = data.unlabelled("news", split).column("text")
    return [text for text in found if 2 * BEGINNING <= len(text.split()) <= 4 * BEGINNING][:most]


def score(model: Model, params: Any, texts: Sequence[str], size: int = 4) -> float:
    """Nats a byte of some texts: of the tokens that stand for bytes, over those bytes."""
    wide = jnp.array([len(piece) for piece in token_bytes(model.tokenizer)], jnp.int32)

    @jax.jit
    def of(params, batch):
        labels = jnp.maximum(batch["labels"], 0)
        said = jax.nn.log_softmax(model.apply(params, batch, None).logits)
        counts = (batch["labels"] >= 0) & (batch["weights"] > 0) & (wide[labels] > 0)
        nats = -jnp.take_along_axis(said, labels[..., None], axis=-1)[..., 0]
        return jnp.sum(jnp.where(counts, nats, 0.0)), jnp.sum(jnp.where(counts, wide[labels], 0))

    told = data.next_tokens(Dataset({"text": list(texts)}), model.tokenizer, length=LENGTH, too_long="truncate")
    batches = data.evaluation_batches(told, size, length=LENGTH, padding=model.pad_token)
    found = np.array([of(params, batch) for batch in batches])
    return float(found[:, 0].sum() / found[:, 1].sum())


def goings_on(model: Model, params: Any, texts: Sequence[str]) -> list[list[str]]:
    """Pairs of a sentence's beginning and what the model writes after it, the likeliest token each time."""
    begun = [" ".join(text.split()[:BEGINNING]) for text in texts]
    told = data.next_tokens(Dataset({"text": begun}), model.tokenizer, length=LENGTH).columns["input_ids"]
    told = [list(one)[:-1] for one in told]  # without the token that ends a text
    said = writing.texts(model, params, told, NEW)
    return [list(pair) for pair in zip(begun, said, strict=True)]


def methods(student: Model, teacher: Model) -> dict[str, Method]:
    """The ways by name, beside the task's own loss each."""
    common = data.common_tokens(student.tokenizer, teacher.tokenizer)
    return {
        "plain": compose(),
        "ULD": uld(teacher.apply, teacher.params, top=TOP),
        "ULD, common tokens": uld(teacher.apply, teacher.params, top=TOP, common=common),
    }


def study(
    addresses: tuple[str, str], folder: Path, steps: int, batch: int, texts: int, held_out: int, seed: int = 0
) -> list[dict[str, Any]]:
    """A row for the teacher, one for the student as it is, and one for each way.

    Args:
      addresses: of the student and of the teacher.
      folder: where the sentences are written.
      steps, batch: of each training.
      texts: sentences that are learned.
      held_out: sentences that are measured on.
      seed: of the order and of the adapters.
    """
    student, teacher = map(models.load, addresses)
    file, held = folder / "editorials.jsonl", sentences("test", held_out)
    write_lines(file, ({"text": text} for text in sentences("train", texts)))

    def measured(way, model, params):
        found = {"way": way, "held_out": score(model, params, held), "texts": goings_on(model, params, held[:SHOWN])}
        print(f"{way}: {found['held_out']:.4f}", flush=True)
        return found

    told = [measured("the teacher", teacher, teacher.params), measured("before", student, student.params)]
    for name, method in methods(student, teacher).items():
        written = Written(
            str(file), held_out=0.0, length=LENGTH, teacher_tokenizer=None if name == "plain" else addresses[1]
        )

        def rows(written=written):
            with warnings.catch_warnings():
                # A first token that only one side says, and what is cut, have no counterpart.
                warnings.simplefilter("ignore", UserWarning)
                (task,) = written.build(student, Feed(batch_size=batch, seed=seed))
            return iter(task.train)

        told.append(measured(name, student, merge(writing.trained(student, method, rows, steps, seed))))
    return told


def claims(rows: Sequence[Mapping[str, Any]]) -> list[Claim]:
    """That sentences are learned, and that a teacher of another tokenizer helps on those held out."""
    by = {one["way"]: one["held_out"] for one in rows}
    pairs = (("plain", "before", 0.01), ("ULD", "plain", 0.002), ("ULD, common tokens", "plain", 0.002))
    return [
        Claim(
            f"{way}: {by[way]:.4f} nats a byte of held-out sentences, {other} {by[other]:.4f}: less by "
            f"{by[other] - by[way]:.4f}, at least {least} was claimed",
            by[other] - by[way] >= least,
        )
        for way, other, least in pairs
    ]


def main() -> None:
    """Trains, prints and records; exits non-zero where a claim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--texts", type=int, default=48, help="sentences that are learned")
    parser.add_argument("--held-out", type=int, default=24, help="sentences that are measured on")
    parser.add_argument("--out", type=Path, help="a file of JSON lines to write")
    options = vars(parser.parse_args())
    out = options.pop("out")
    with tempfile.TemporaryDirectory() as folder:
        rows = study((SMOLLM2, GEMMA3_270M), Path(folder), **options)
    found = claims(rows)
    about = {**options, "sentences": options["texts"]}  # a row's texts are what was written
    tell([*({**about, **row} for row in rows), *(dataclasses.asdict(claim) for claim in found)], out)
    raise SystemExit(not all(claim.met for claim in found))


if __name__ == "__main__":
    main()
