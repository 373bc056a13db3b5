"""Preferences without a reference policy: ORPO, SimPO, CPO."""

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.rl import pair_losses
from ft_jax.rl.pairs import against_shuffled_words, preference

LIKE_CHOSEN = {"batch": lambda batch: batch["chosen"]}


@register(
    "rl",
    paper="Hong et al. 2024, arXiv:2403.07691, equations 6 and 7",
    needs=("chosen", "rejected"),
    example=lambda problem: orpo(),
    batch=against_shuffled_words,
    neutral=Neutral({"weight": 0.0}, **LIKE_CHOSEN),
)
def orpo(weight: float = 0.1, sft: float = 1.0, *, term: str = "task", name: str = "rl.orpo") -> Method:
    """Learns the chosen answers while their odds grow over the rejected ones'.

    Adds ``weight · mean(-log_sigmoid(log odds(chosen) - log odds(rejected)))`` with ``odds = p / (1 - p)`` and ``log
    p`` the mean over an answer's tokens, to ``sft`` times the chosen answers' cross-entropy. trl counts the prompt's
    tokens in that cross-entropy too; here it is of what `weights` say.

    Args:
      weight: λ, of the odds ratio.
      sft: of the chosen answers' likelihood, the term `term` of the loss inside.
      term: its name.
      name: the method's name.

    Raises:
      KeyError, ValueError: as `ft_jax.rl.dpo`, whose batches it takes.

    Example:
      >>> orpo().hyper["weight"]
      0.1
    """
    numbers = {"beta": 1.0}
    return preference(name, pair_losses.odds_ratio, numbers, weight=weight, likelihood=sft, term=term, mean=True)


@register(
    "rl",
    paper="Meng et al. 2024, arXiv:2405.14734, equation 6",
    needs=("chosen", "rejected"),
    example=lambda problem: simpo(sft=0.0),
    batch=against_shuffled_words,
    neutral=Neutral({"weight": 0.0, "sft": 1.0}, **LIKE_CHOSEN),
)
def simpo(
    beta: float = 2.0,
    gamma: float = 1.0,
    weight: float = 1.0,
    sft: float | None = None,
    *,
    term: str = "task",
    name: str = "rl.simpo",
) -> Method:
    """Makes the mean token of chosen answers likelier than that of rejected ones, by a margin.

    Adds ``weight · mean(-log_sigmoid(beta · (log p(chosen) / |chosen| - log p(rejected) / |rejected|) - gamma))``.

    Args:
      beta: scale of the rewards.
      gamma: the margin, in units of the scaled reward (trl's ``simpo_gamma``).
      weight: of the term.
      sft: as in `ft_jax.rl.dpo`; with it and ``beta`` of CPO this is CPO-SimPO.
      term, name: as in `ft_jax.rl.dpo`.

    Raises:
      KeyError, ValueError: as `ft_jax.rl.dpo`, whose batches it takes.

    Example:
      >>> simpo(beta=2.5).hyper
      {'beta': 2.5, 'gamma': 1.0, 'weight': 1.0}
    """
    numbers = {"beta": beta, "gamma": gamma}
    return preference(name, pair_losses.simpo, numbers, weight=weight, likelihood=sft, term=term, mean=True)


@register(
    "rl",
    paper="Xu et al. 2024, arXiv:2401.08417, equation 5",
    needs=("chosen", "rejected"),
    example=lambda problem: cpo(),
    batch=against_shuffled_words,
    neutral=Neutral({"weight": 0.0}, **LIKE_CHOSEN),
)
def cpo(
    beta: float = 0.1, weight: float = 1.0, sft: float = 1.0, *, term: str = "task", name: str = "rl.cpo"
) -> Method:
    """Makes chosen answers likelier than rejected ones, while it learns them.

    Adds ``weight · mean(-log_sigmoid(beta · (log p(chosen) - log p(rejected))))`` to ``sft`` times the chosen answers'
    cross-entropy: DPO with a uniform reference.

    Args:
      beta: scale of the log-probabilities.
      weight: of the term.
      sft: of the chosen answers' likelihood, the term `term` of the loss inside.
      term: its name.
      name: the method's name.

    Raises:
      KeyError, ValueError: as `ft_jax.rl.dpo`, whose batches it takes.

    Example:
      >>> cpo().hyper
      {'beta': 0.1, 'weight': 1.0, 'sft': 1.0}
    """
    return preference(name, pair_losses.cpo, {"beta": beta}, weight=weight, likelihood=sft, term=term)
