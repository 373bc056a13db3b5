"""Hinton's omitted 3: a student that never saw a three, and knows threes by what its teacher says of other digits."""

import numpy as np

from ft_jax.core import compose
from ft_jax.training.report.charts import Series, line_chart
from ft_jax.training.reproduction import Found, Reproduction, at_least, at_most

from ._mnist import EPOCHS, QUICK, SMALL, learned, logits, order, several, softened, wrong
from ._permuted import digits

THREE = 3
RAISES = np.arange(0.0, 30.0, 0.1)
"""What the bias of the class may be raised by."""


def raised(logits: np.ndarray, by: float) -> np.ndarray:
    """The logits with the bias of threes raised."""
    return logits + by * (np.arange(logits.shape[-1]) == THREE)


def best_raise(logits: np.ndarray, labels: np.ndarray) -> float:
    """The least raise of the bias under which one network's error on these digits is least."""
    return float(RAISES[int(np.argmin([wrong(raised(logits[None], by), labels)[0] for by in RAISES]))])


def right(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The share of threes that each network gets right."""
    return 1 - wrong(logits[:, labels == THREE], labels[labels == THREE]) / 100


def measure(seeds, quick, address):
    """The threes right before and after the bias is raised, chosen on the test digits as in the paper."""
    epochs, parts = QUICK if quick else EPOCHS, digits(address)
    steps = order(parts["train"]["labels"], epochs["student"], seeds[0], without=(THREE,))
    method = compose(several(len(seeds)), softened(address, epochs["teacher"]))
    students = learned(method, SMALL, parts["train"], steps, seeds[0])
    labels = {name: np.asarray(part["labels"]) for name, part in parts.items()}
    said = {name: logits(students, part) for name, part in parts.items()}
    test = labels["test"]

    def after(split):
        raises = [best_raise(one, labels[split]) for one in said[split]]
        return raises, np.stack([raised(one, by) for one, by in zip(said["test"], raises, strict=True)])

    raises, corrected = after("test")
    _, unseen = after("train")
    before = {"threes": right(said["test"], test), "wrong": wrong(said["test"], test)}
    whole = [] if quick else [at_least("share of the test threes right", 0.9, right(corrected, test), "0.986")]
    lines = [
        Series(name, [(float(by), float(np.mean(of(raised(said["test"], by))))) for by in RAISES[::5]])
        for name, of in (("threes", lambda x: right(x, test)), ("all", lambda x: 1 - wrong(x, test) / 100))
    ]
    return Found(
        [
            *whole,
            at_most("of them before the bias is raised", float(right(corrected, test).mean()), before["threes"],
                    "0.868"),
            at_least("what the bias is raised by", 0.1, raises, "3.5"),
            at_most("% of all test digits wrong after it", float(before["wrong"].mean()), wrong(corrected, test),
                    "1.09 (2.06 before)"),
            at_least("share of the test threes right, the raise chosen on the training digits",
                     float(before["threes"].mean()), right(unseen, test)),
        ],
        {"test digits right, by what the bias is raised by": line_chart("share right", lines)},
    )  # fmt: skip


reproduction = Reproduction(
    title="A student that never saw a three",
    paper="Hinton, Vinyals and Dean 2015, arXiv:1503.02531",
    where="section 3",
    setting="other",
    difference=(
        "10,000 digits, 2,000 of them the test set, for 70,000; a teacher of 800 and students of 300 units a layer for "
        "1,200 and 800; dropout without a bound on the weights"
    ),
    measure=measure,
    seeds=(0, 1, 2),
    seconds=180,
    data="mnist",
)
