"""A stream over tiny sentences, whose process kills itself at the moments that its test names."""

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

import jax
from data.tiny_tokenizers import for_encoders
from transformers import PreTrainedTokenizerFast

from ft_jax import data, models
from ft_jax.models import EncoderConfig
from ft_jax.training import Experiment, OptimizerSpec, Use
from ft_jax.training.online import Journal, learner_of, serve
from ft_jax.training.online.learner import Blank
from ft_jax.training.online.serve import Stand

WORDS = ("good", "bad", "great", "awful", "film", "plot", "acting", "really")


@dataclasses.dataclass(frozen=True)
class Tiny:
    """An encoder of one layer with two classes that have names."""

    def build(self, key):
        tokenizer = for_encoders()
        tokenizer.no_padding()
        tokenizer.no_truncation()
        names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
        config = EncoderConfig(
            vocabulary=tokenizer.get_vocab_size(), width=16, layers=1, heads=2, mlp_width=32, positions=32,
            dropout=0.0, attention_dropout=0.0,
        )  # fmt: skip
        model = models.with_classifier(models.build(config, key), 2, key, "mean")
        wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
        return dataclasses.replace(model, tokenizer=wrapped, classes=("negative", "positive"))


EXPERIMENT = Experiment(
    name="killed",
    model=Tiny(),
    data=Blank(32),
    method=(Use("incremental.replay", capacity=12, size=4),),
    optimizer=OptimizerSpec("sgd", 0.1),
)


def rows(count: int) -> list[str]:
    """Lines of which two in three have a label."""
    made = []
    for at in range(count):
        good = at % 2 == 0
        text = f"the {WORDS[4 + at % 4]} was {WORDS[at % 4 // 2 * 2 + (not good)]} {WORDS[4 + at % 3]}"
        made.append({"text": text, **({"label": "positive" if good else "negative"} if at % 3 else {})})
    return [json.dumps(row) for row in made]


def stream(folder: Path, source: Path, write=lambda answer: None):
    """The learner and what was served, of everything that is in the source."""
    learner, plan, _ = learner_of(EXPERIMENT)
    stand = Stand(folder, {"of": "killed"}, learner, plan.composition.names, every=5)
    try:
        lines = data.follow(source, stand.place, end=True)
        return learner, serve(learner, lines, stand, write, folder / "log.jsonl")
    finally:
        stand.close()


def killing(moment: str, number: int):
    """Kills the process at the so-manieth time that it comes to a moment."""
    from ft_jax.training.checkpoint import Checkpoints

    owner, name = {
        "before the journal": (Stand, "note"),
        "before learning": (Journal, "append"),
        "in a checkpoint": (Checkpoints, "save"),
    }[moment]
    before, count = getattr(owner, name), [0]

    def kill(self, *arguments):
        count[0] += 1
        if count[0] < number:
            return before(self, *arguments)
        if moment != "before the journal":
            before(self, *arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, kill)


if __name__ == "__main__":
    killing(sys.argv[3], int(sys.argv[4]))
    assert jax.device_count()
    stream(Path(sys.argv[1]), Path(sys.argv[2]))
