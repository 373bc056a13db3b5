"""Ten networks on MNIST against one: their mean prediction's log-likelihood, calibration error and accuracy.

As the authors' deterministic.py trains them: Adam at 0.001 throughout, 25 passes, an order of examples for each.
Beside it ten networks whose rate falls to 0 in half as many passes, all with one order: those are less sure of
themselves where they are wrong, and leave less to mend.
"""

import numpy as np

from ft_jax.ensemble import calibration, fusion, own_start
from ft_jax.training.reproduction import Found, Reproduction, at_least, at_most

from ._mnist import learned, logits, order, several
from ._permuted import digits

MEMBERS, WIDTHS, EPOCHS, QUICK = 10, (128, 128), 25, 2


def scored(said: np.ndarray, labels: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
    """Scores of one network, on average over all of them, and of their mean prediction."""
    alone = [calibration.scores(one, labels) for one in said]
    fused = calibration.scores(np.asarray(fusion.mean(said)), labels)
    names = ("log_likelihood", "ece", "accuracy")
    return {name: float(np.mean([getattr(one, name) for one in alone])) for name in names}, {
        name: getattr(fused, name) for name in names
    }


def measure(seeds, quick, address):
    """Ten networks a seed, in one program; one network is the mean over the ten."""
    parts, epochs = digits(address), QUICK if quick else EPOCHS
    train, labels = parts["train"], np.asarray(parts["test"]["labels"])

    def pair(networks):
        return scored(logits(networks, parts["test"]), labels)

    pairs = []
    for seed in seeds:
        own = [order(train["labels"], epochs, MEMBERS * seed + place) for place in range(MEMBERS)]
        pairs.append(pair(learned(own_start(), WIDTHS, train, np.stack(own, axis=1), seed, constant=True)))
    steps = order(train["labels"], max(epochs // 2, 1), seeds[0])
    falling = pair(learned(several(MEMBERS), WIDTHS, train, steps, seeds[0]))

    def of(name, pairs=pairs):
        return np.array([[one[name] for one in pair] for pair in pairs]).T

    (one, ten), (one_ece, ten_ece), (one_right, ten_right) = (of(x) for x in ("log_likelihood", "ece", "accuracy"))
    early, late = of("log_likelihood", [falling])
    return Found(
        [
            at_most(f"negative log-likelihood, ten over one ({-ten.mean():.3f} over {-one.mean():.3f})", 0.6, ten / one,
                    "0.016 / 0.037 = 0.43"),
            at_least(f"accuracy of ten, above one's {one_right.mean():.4f}", float(one_right.mean()), ten_right,
                     "0.994, one 0.991"),
            at_most(f"calibration error of ten, below one's {one_ece.mean():.4f}", float(one_ece.mean()), ten_ece),
            at_most(f"the same ({-late.mean():.3f} over {-early.mean():.3f}) where the rate falls "
                    "to 0 in half the passes and one order for all", 1.0, late / early),
        ]
    )  # fmt: skip


reproduction = Reproduction(
    title="Ten networks against one on MNIST",
    paper="Nado et al. 2021, Uncertainty Baselines, arXiv:2106.04015",
    where="the repository's table of baselines/mnist",
    setting="other",
    difference="perceptrons for LeNet-5; 10,000 digits, 2,000 of them the test set, for 70,000; 100 a step for 256",
    measure=measure,
    seeds=(0, 1, 2),
    seconds=180,
    data="mnist",
)
