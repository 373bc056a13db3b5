"""A small net on MNIST by the labels, the same from a large net's soft targets, and the large net."""

import numpy as np

from ft_jax.core import compose
from ft_jax.training.reproduction import Found, Reproduction, at_most

from ._mnist import EPOCHS, QUICK, SMALL, learned, logits, order, several, softened, teacher, wrong
from ._permuted import digits


def measure(seeds, quick, address):
    """Percentages of test digits wrong; the nets of a kind learn in one program, from starts of their own."""
    epochs, parts = QUICK if quick else EPOCHS, digits(address)
    steps = order(parts["train"]["labels"], epochs["student"], seeds[0])
    methods = {"alone": several(len(seeds)),
               "distilled": compose(several(len(seeds)), softened(address, epochs["teacher"]))}  # fmt: skip
    test = np.asarray(parts["test"]["labels"])
    found = {
        name: wrong(logits(learned(method, SMALL, parts["train"], steps, seeds[0]), parts["test"]), test)
        for name, method in methods.items()
    }
    large = wrong(teacher(address, epochs["teacher"])[2], test)
    alone, taught = float(found["alone"].mean()), float(found["distilled"].mean())
    each = f"{alone:.3g} ({found['alone'].min():.3g} to {found['alone'].max():.3g})"
    return Found(
        [
            at_most(f"% of test digits wrong, small and distilled; alone {each}", alone, found["distilled"],
                    "0.74; alone 1.46"),
            at_most("% of test digits wrong, large", taught, large, "0.67"),
        ]
    )  # fmt: skip


reproduction = Reproduction(
    title="A small net from a large one's soft targets",
    paper="Hinton, Vinyals and Dean 2015, arXiv:1503.02531",
    where="section 3",
    setting="other",
    difference=(
        "10,000 digits, 2,000 of them the test set, for 70,000; a teacher of 800 and students of 300 units a layer for "
        "1,200 and 800; dropout without a bound on the weights; all five students of one teacher"
    ),
    measure=measure,
    seeds=(0, 1, 2, 3, 4),
    seconds=300,
    data="mnist",
)
