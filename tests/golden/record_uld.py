"""Records trl's loss for a teacher with another tokenizer: ``python record_uld.py OUT.json`` (needs torch and trl).

Both models are tables of logits, so that the loss and its gradient are functions of them. One text of 14 bytes is 5
tokens of the student's and 6 of the teacher's. trl's "observed" reads of each position what stands there, which says
the next token; here its tables are moved by one, so that it reads what says this token, as its "bayesian" does.
"""

import json
import sys
from types import SimpleNamespace

import numpy as np
import torch
import trl
from trl.experimental.gold.gold_trainer import ULDLoss

STUDENT_ENDS, TEACHER_ENDS = (3, 5, 9, 10, 14), (2, 4, 5, 9, 12, 14)
STUDENT_PROMPT, TEACHER_PROMPT = 2, 3
STUDENT_CLASSES, TEACHER_CLASSES = 7, 9
COMMON = {0: 1, 2: 5, 3: 0, 6: 8}
"""Student's ids to the teacher's."""
KINDS = {
    "sorted": {},
    "adaptive": {"uld_use_hybrid_loss": True},
    "weighed": {
        "uld_use_hybrid_loss": True, "uld_hybrid_matched_weight": 0.7, "uld_hybrid_unmatched_weight": 0.4, "beta": 0.2,
    },
}  # fmt: skip


class Words:
    """A tokenizer of which trl reads the vocabulary alone."""

    def __init__(self, vocabulary):
        self.vocabulary = vocabulary

    def get_vocab(self):
        return self.vocabulary


def side(generator, ends, prompt, classes):
    """Logits ``[time, classes]``, ids and labels ``[time]`` and offsets ``[time, 2]``, the prompt in front."""
    time = prompt + len(ends)
    ids = torch.tensor(generator.integers(0, classes, time))
    logits = torch.tensor(generator.normal(size=(time, classes)) * 1.5)
    labels = torch.where(torch.arange(time) < prompt, -100, ids)
    starts = (0, *ends[:-1])
    offsets = torch.tensor([(0, 0)] * prompt + list(zip(starts, ends, strict=True)))
    return logits, ids, labels, offsets


def told(side, ends, prompt):
    return {"logits": side[0].tolist(), "ids": side[1].tolist(), "ends": ends, "prompt": prompt}


def main():
    generator = np.random.default_rng(0)
    own = side(generator, STUDENT_ENDS, STUDENT_PROMPT, STUDENT_CLASSES)
    their = side(generator, TEACHER_ENDS, TEACHER_PROMPT, TEACHER_CLASSES)
    names = {place: f"token {place}" for place in range(STUDENT_CLASSES)}
    shared = {their_id: names[own_id] for own_id, their_id in COMMON.items()}
    vocabularies = (
        Words({name: place for place, name in names.items()}),
        Words({shared.get(place, f"other {place}"): place for place in range(TEACHER_CLASSES)}),
    )
    found = {}
    for merge in ("observed", "bayesian"):
        for kind, options in KINDS.items():
            config = SimpleNamespace(
                uld_crossentropy_weight=0.0, uld_distillation_weight=1.0, uld_student_temperature=1.0,
                uld_teacher_temperature=1.0, uld_skip_student_eos=False, uld_skip_teacher_eos=False,
                use_extended_uld=True, uld_token_merge_strategy=merge, **{"beta": 0.5, **options},
            )  # fmt: skip
            loss = ULDLoss(config, *vocabularies)
            logits = own[0].clone().requires_grad_()
            tables = [logits, their[0]]
            if merge == "observed":
                tables = [torch.roll(table, 1, 0) for table in tables]
            value = loss(
                tables[0][None], tables[1][None], own[2][None], their[2][None], own[1][None], their[1][None],
                own[3][None], their[3][None],
            )  # fmt: skip
            value.backward()
            found[f"{merge} {kind}"] = {"loss": value.item(), "gradient": np.round(logits.grad.numpy(), 9).tolist()}
    pairs = [offsets[prompt:].tolist() for offsets, prompt in ((own[3], STUDENT_PROMPT), (their[3], TEACHER_PROMPT))]
    numbers = [
        [1 + group for group, places in enumerate(side) for _ in places]
        for side in ULDLoss._align_by_byte_offsets(*pairs)
    ]
    record = {
        "versions": {"trl": trl.__version__, "torch": torch.__version__},
        "student": told(own, STUDENT_ENDS, STUDENT_PROMPT),
        "teacher": told(their, TEACHER_ENDS, TEACHER_PROMPT),
        "common": [list(COMMON), list(COMMON.values())],
        "groups": numbers,
        "found": found,
    }  # fmt: skip
    with open(sys.argv[1], "w") as file:
        json.dump(record, file)


if __name__ == "__main__":
    main()
