"""What a pair of answers costs: the losses of preference learning as functions of log-probabilities.

Each takes a `Pair` and the method's numbers and gives one value a pair, ``[pairs]``. In the formulas

- ``chosen`` and ``rejected`` are the answers' log-probabilities, summed over their tokens, in nats;
- ``gain(answer) = log p(answer) - log p_reference(answer)``, and ``margin = gain(chosen) - gain(rejected)``;
- ``σ`` is the sigmoid and ``|answer|`` the number of its tokens.

`ft_jax.rl.dpo` makes a method of each by name: ``dpo(loss="ipo")``.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Numbers = Mapping[str, Float[Array, ""]]
log_sigmoid = jax.nn.log_sigmoid
sigmoid = jax.nn.sigmoid


@dataclasses.dataclass(frozen=True)
class Pair:
    """Log-probabilities of pairs of answers, each ``[pairs]`` in nats, and the answers' lengths.

    Attributes:
      chosen, rejected: of the answers under the policy.
      reference_chosen, reference_rejected: under the reference, without a gradient; 0 where there is none.
      chosen_tokens, rejected_tokens: how many tokens each answer has.
    """

    chosen: Float[Array, " pairs"]
    rejected: Float[Array, " pairs"]
    reference_chosen: Float[Array, " pairs"]
    reference_rejected: Float[Array, " pairs"]
    chosen_tokens: Float[Array, " pairs"]
    rejected_tokens: Float[Array, " pairs"]

    @property
    def chosen_gain(self) -> Float[Array, " pairs"]:
        """``log p(chosen) - log p_reference(chosen)``."""
        return self.chosen - self.reference_chosen

    @property
    def rejected_gain(self) -> Float[Array, " pairs"]:
        """``log p(rejected) - log p_reference(rejected)``."""
        return self.rejected - self.reference_rejected

    @property
    def margin(self) -> Float[Array, " pairs"]:
        """How much more the chosen answer gained than the rejected one."""
        return self.chosen_gain - self.rejected_gain

    @property
    def mean_margin(self) -> Float[Array, " pairs"]:
        """The margin of the gains a token."""
        return self.chosen_gain / _at_least_one(self.chosen_tokens) - self.rejected_gain / _at_least_one(
            self.rejected_tokens
        )


def _at_least_one(tokens):
    return jnp.maximum(tokens, 1.0)


def bradley_terry(pair: Pair, numbers: Numbers):
    """DPO: ``-log σ(beta · margin)``. Rafailov et al. 2023, arXiv:2305.18290, equation 7."""
    return -log_sigmoid(numbers["beta"] * pair.margin)


def length_normalised(pair: Pair, numbers: Numbers):
    """DPO of gains a token: ``-log σ(beta · (gain(chosen) / |chosen| - gain(rejected) / |rejected|))``.

    Lambert et al. 2024, "Tülu 3", arXiv:2411.15124, equation 6.
    """
    return -log_sigmoid(numbers["beta"] * pair.mean_margin)


def hinge(pair: Pair, numbers: Numbers):
    """RSO's normalised hinge: ``max(0, 1 - beta · margin)``. Liu et al. 2023, arXiv:2309.06657, equation 10."""
    return jax.nn.relu(1.0 - numbers["beta"] * pair.margin)


def ipo(pair: Pair, numbers: Numbers):
    """IPO: ``(margin - 1 / (2 · beta))²``, of gains a token. Azar et al. 2023, arXiv:2310.12036, equation 17.

    The paper's sums of tokens would make the target depend on the answers' lengths; gains are averaged, as trl does.
    """
    return (pair.mean_margin - 0.5 / numbers["beta"]) ** 2


def robust(pair: Pair, numbers: Numbers):
    """DPO under labels that are wrong with probability `smoothing`, without bias.

    ``(-(1 - smoothing) · log σ(beta · margin) + smoothing · log σ(-beta · margin)) / (1 - 2 · smoothing)``.
    Chowdhury et al. 2024, arXiv:2403.00409, equation 9.
    """
    scaled, wrong = numbers["beta"] * pair.margin, numbers["smoothing"]
    return (-(1.0 - wrong) * log_sigmoid(scaled) + wrong * log_sigmoid(-scaled)) / (1.0 - 2.0 * wrong)


def exo(pair: Pair, numbers: Numbers):
    """EXO's reverse divergence from the preferences ``[1 - smoothing, smoothing]``.

    ``Σ q · (log q - log p)`` with ``q = σ(±beta · margin)``. Ji et al. 2024, arXiv:2402.00856, equation 16.
    """
    scaled, wrong = numbers["beta"] * pair.margin, numbers["smoothing"]
    won = sigmoid(scaled) * (log_sigmoid(scaled) - jnp.log1p(-wrong))
    return won + sigmoid(-scaled) * (log_sigmoid(-scaled) - jnp.log(wrong))


def nca(pair: Pair, numbers: Numbers):
    """NCA: ``-log σ(r_c) - ½ · log σ(-r_c) - ½ · log σ(-r_r)`` with ``r = beta · gain``.

    Chen et al. 2024, arXiv:2402.05369, equation 13 with two answers.
    """
    chosen, rejected = numbers["beta"] * pair.chosen_gain, numbers["beta"] * pair.rejected_gain
    return -log_sigmoid(chosen) - 0.5 * log_sigmoid(-chosen) - 0.5 * log_sigmoid(-rejected)


def bco(pair: Pair, numbers: Numbers):
    """BCO on pairs: ``-log σ(r_c) - log σ(-r_r)`` with ``r = beta · gain``. Jung et al. 2024, arXiv:2404.04656."""
    return -log_sigmoid(numbers["beta"] * pair.chosen_gain) - log_sigmoid(-numbers["beta"] * pair.rejected_gain)


def sppo(pair: Pair, numbers: Numbers):
    """SPPO with certain preferences: ``(gain(chosen) - ½ / beta)² + (gain(rejected) + ½ / beta)²``.

    Wu et al. 2024, arXiv:2405.00675, equation 4.7 with probabilities 1 and 0.
    """
    target = 0.5 / numbers["beta"]
    return (pair.chosen_gain - target) ** 2 + (pair.rejected_gain + target) ** 2


def apo_zero(pair: Pair, numbers: Numbers):
    """APO-zero, for answers better than the model's own: ``1 - σ(r_c) + σ(r_r)`` with ``r = beta · gain``.

    D'Oosterlinck et al. 2024, arXiv:2408.06266, equation 7.
    """
    return 1.0 - sigmoid(numbers["beta"] * pair.chosen_gain) + sigmoid(numbers["beta"] * pair.rejected_gain)


def apo_down(pair: Pair, numbers: Numbers):
    """APO-down, for answers worse than the model's own: ``σ(r_c) + 1 - σ(beta · margin)``.

    D'Oosterlinck et al. 2024, arXiv:2408.06266, equation 8.
    """
    return sigmoid(numbers["beta"] * pair.chosen_gain) + 1.0 - sigmoid(numbers["beta"] * pair.margin)


def discopop(pair: Pair, numbers: Numbers):
    """DiscoPOP's found blend of logistic and exponential: ``(1 - m) · -log σ(s) + m · exp(-s)``.

    ``s = beta · margin`` and ``m = σ(s / tau)``. Lu et al. 2024, arXiv:2406.08414, equation 5.
    """
    scaled = numbers["beta"] * pair.margin
    share = sigmoid(scaled / numbers["tau"])
    return -log_sigmoid(scaled) * (1.0 - share) + jnp.exp(-scaled) * share


def aot(pair: Pair, numbers: Numbers):
    """AOT: the sorted log-ratios of the policy against those of the reference, by DPO's loss with `smoothing`.

    ``sort(chosen - rejected) - sort(reference_chosen - reference_rejected)`` over the pairs of the batch, which
    compares them. Melnyk et al. 2024, arXiv:2406.05882, algorithm 2.
    """
    own, reference = pair.chosen - pair.rejected, pair.reference_chosen - pair.reference_rejected
    return _smoothed(jnp.sort(own) - jnp.sort(reference), numbers)


def aot_unpaired(pair: Pair, numbers: Numbers):
    """AOT of answers that are no pairs: ``sort(gain(chosen)) - sort(gain(rejected))``, else as `aot`.

    Melnyk et al. 2024, arXiv:2406.05882, algorithm 1.
    """
    return _smoothed(jnp.sort(pair.chosen_gain) - jnp.sort(pair.rejected_gain), numbers)


def _smoothed(margin, numbers):
    scaled, wrong = numbers["beta"] * margin, numbers["smoothing"]
    return -(1.0 - wrong) * log_sigmoid(scaled) - wrong * log_sigmoid(-scaled)


def odds_ratio(pair: Pair, numbers: Numbers):
    """ORPO: ``-log σ(log odds(chosen) - log odds(rejected))``, ``odds = p / (1 - p)`` of the mean token.

    ``log p`` is the mean over an answer's tokens. Hong et al. 2024, arXiv:2403.07691, equation 7.
    """
    chosen = jnp.minimum(pair.chosen / _at_least_one(pair.chosen_tokens), -1e-7)
    rejected = jnp.minimum(pair.rejected / _at_least_one(pair.rejected_tokens), -1e-7)
    return -log_sigmoid(chosen - rejected - (_log1mexp(chosen) - _log1mexp(rejected)))


def _log1mexp(x):
    """``log(1 - exp(x))`` for negative x, exact near 0 and far from it."""
    near = x > -0.6931472
    # Each branch gets a safe argument, or its NaN would reach the gradient of the other.
    return jnp.where(near, jnp.log(-jnp.expm1(jnp.where(near, x, -1.0))), jnp.log1p(-jnp.exp(jnp.where(near, -1.0, x))))


def simpo(pair: Pair, numbers: Numbers):
    """SimPO: ``-log σ(beta · (chosen / |chosen| - rejected / |rejected|) - gamma)``.

    Meng et al. 2024, arXiv:2405.14734, equation 6; without a reference.
    """
    chosen = pair.chosen / _at_least_one(pair.chosen_tokens)
    rejected = pair.rejected / _at_least_one(pair.rejected_tokens)
    return -log_sigmoid(numbers["beta"] * (chosen - rejected) - numbers["gamma"])


def cpo(pair: Pair, numbers: Numbers):
    """CPO: ``-log σ(beta · (chosen - rejected))``. Xu et al. 2024, arXiv:2401.08417, equation 3."""
    return -log_sigmoid(numbers["beta"] * (pair.chosen - pair.rejected))


@dataclasses.dataclass(frozen=True)
class PairLoss:
    """A loss with a reference, and the numbers it reads besides ``beta``.

    Attributes:
      value: ``(pair, numbers) -> [pairs]``.
      numbers: by name, with defaults.
      couples: compares the pairs of a batch.
    """

    value: Callable[[Pair, Numbers], Float[Array, " pairs"]]
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    couples: bool = False


LOSSES: Mapping[str, PairLoss] = {
    "sigmoid": PairLoss(bradley_terry),
    "length_normalised": PairLoss(length_normalised),
    "hinge": PairLoss(hinge),
    "ipo": PairLoss(ipo),
    "robust": PairLoss(robust, {"smoothing": 0.1}),
    "exo": PairLoss(exo, {"smoothing": 0.001}),
    "nca": PairLoss(nca),
    "bco": PairLoss(bco),
    "sppo": PairLoss(sppo),
    "apo_zero": PairLoss(apo_zero),
    "apo_down": PairLoss(apo_down),
    "discopop": PairLoss(discopop, {"tau": 0.05}),
    "aot": PairLoss(aot, {"smoothing": 0.0}, couples=True),
    "aot_unpaired": PairLoss(aot_unpaired, {"smoothing": 0.0}, couples=True),
}
"""The losses of `ft_jax.rl.dpo` by name."""
