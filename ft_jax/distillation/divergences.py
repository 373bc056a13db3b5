"""Other distances between a student's and a teacher's distribution, position by position."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.params import Params
from ft_jax.distillation.teachers import check_temperature, of_logits


def _sharper(problem):
    """The problem's model with larger weights, as a teacher."""
    return jax.tree.map(lambda leaf: 1.2 * leaf, problem.params)


@register(
    "distillation",
    paper="Gu et al. 2024, arXiv:2306.08543, equation 1",
    example=lambda problem: reverse_kl(problem.apply, _sharper(problem), weight=0.5),
    neutral=Neutral({"weight": 0.0}),
)
def reverse_kl(
    apply: Callable,
    params: Params,
    weight: float = 1.0,
    temperature: float = 1.0,
    hard_weight: float | None = 1.0,
    *,
    name: str = "distillation.reverse_kl",
) -> Method:
    """Draws the student to modes of a teacher: the divergence is taken under the student.

    The term is ``weight · temperature² · KL(student || teacher)``, both at ``softmax(logits / temperature)``: where the
    teacher gives nothing, the student pays, and it may leave some of the teacher's modes out. The batch is data; the
    paper's samples of the student are not drawn here.

    Args:
      apply, params: the teacher's, as in `logits`.
      weight: of the term; data in ``hyper``, as are all numbers here.
      temperature: softens both distributions.
      hard_weight: of the task's term; None takes it out.
      name: the method's name, under which the teacher's parameters stand.

    Raises:
      ValueError: a temperature that is not positive; when tracing, a teacher of another vocabulary or positions.

    Example:
      >>> from ft_jax.core import Outputs
      >>> apply = lambda params, batch, key=None: Outputs(batch["x"] @ params["w"])
      >>> reverse_kl(apply, {}).hyper
      {'weight': 1.0, 'temperature': 1.0, 'hard_weight': 1.0}
    """
    check_temperature(temperature, name)
    return of_logits(name, apply, params, reverse_rows, {"temperature": temperature}, weight, hard_weight)


@register(
    "distillation",
    paper="Agarwal et al. 2024, arXiv:2306.13649, equation 1",
    example=lambda problem: jsd(problem.apply, _sharper(problem), weight=0.5),
    neutral=Neutral({"weight": 0.0}),
)
def jsd(
    apply: Callable,
    params: Params,
    weight: float = 1.0,
    beta: float = 0.5,
    temperature: float = 1.0,
    hard_weight: float | None = 1.0,
    *,
    name: str = "distillation.jsd",
) -> Method:
    """Draws the student to a teacher by the generalised Jensen-Shannon divergence, which is bounded.

    With ``mixture = beta · teacher + (1 - beta) · student`` the term is ``weight · temperature² ·
    (beta · KL(teacher || mixture) + (1 - beta) · KL(student || mixture))``. It goes to 0 with `beta`, and to 0 with
    ``1 - beta``: near the ends it is ``beta · KL(teacher || student)`` and ``(1 - beta) · KL(student || teacher)``. trl
    puts the divergences themselves at 0 and 1, a jump; here the ends are other methods, `logits` and `reverse_kl`.

    Args:
      apply, params: the teacher's, as in `logits`.
      weight: of the term; data in ``hyper``, as are all numbers here.
      beta: the teacher's share of the mixture.
      temperature: softens both distributions.
      hard_weight: of the task's term; None takes it out.
      name: the method's name, under which the teacher's parameters stand.

    Raises:
      ValueError: a beta outside (0, 1), a temperature that is not positive; when tracing, a teacher of another
        vocabulary or positions.

    Example:
      >>> from ft_jax.core import Outputs
      >>> apply = lambda params, batch, key=None: Outputs(batch["x"] @ params["w"])
      >>> jsd(apply, {}, beta=0.1, hard_weight=None).hyper
      {'weight': 1.0, 'beta': 0.1, 'temperature': 1.0}
    """
    check_temperature(temperature, name)
    if not 0 < beta < 1:
        end = "distillation.reverse_kl" if beta >= 1 else "distillation.logits"
        raise ValueError(f"{name} has beta {beta}; give a number between 0 and 1, or use {end}")
    hyper = {"beta": beta, "temperature": temperature}
    return of_logits(name, apply, params, jsd_rows, hyper, weight, hard_weight)


@register(
    "distillation",
    paper="Ko et al. 2024, arXiv:2402.03898, section 3.1",
    example=lambda problem: skewed_kl(problem.apply, _sharper(problem), weight=0.5),
    neutral=Neutral({"weight": 0.0}),
)
def skewed_kl(
    apply: Callable,
    params: Params,
    weight: float = 1.0,
    skew: float = 0.1,
    reverse: bool = False,
    temperature: float = 1.0,
    hard_weight: float | None = 1.0,
    *,
    name: str = "distillation.skewed_kl",
) -> Method:
    """Draws the student to a teacher by a divergence from a mixture, whose gradients are bounded (DistiLLM).

    The term is ``weight · temperature² · KL(teacher || skew · teacher + (1 - skew) · student)``, and with `reverse`
    ``KL(student || skew · student + (1 - skew) · teacher)``. At ``skew = 0`` they are `logits` and `reverse_kl`.

    Args:
      apply, params: the teacher's, as in `logits`.
      weight: of the term; data in ``hyper``, as are all numbers here.
      skew: the share of the first distribution in the mixture; the paper takes 0.1.
      reverse: take the divergence under the student.
      temperature: softens both distributions.
      hard_weight: of the task's term; None takes it out.
      name: the method's name, under which the teacher's parameters stand.

    Raises:
      ValueError: a skew outside [0, 1), a temperature that is not positive; when tracing, a teacher of another
        vocabulary or positions.

    Example:
      >>> from ft_jax.core import Outputs
      >>> apply = lambda params, batch, key=None: Outputs(batch["x"] @ params["w"])
      >>> skewed_kl(apply, {}, hard_weight=None).hyper
      {'weight': 1.0, 'skew': 0.1, 'temperature': 1.0}
    """
    check_temperature(temperature, name)
    if not 0 <= skew < 1:
        raise ValueError(f"{name} has skew {skew}; give a number from 0 to below 1")
    rows = skewed_reverse_rows if reverse else skewed_rows
    return of_logits(name, apply, params, rows, {"skew": skew, "temperature": temperature}, weight, hard_weight)


@register(
    "distillation",
    paper="Sun et al. 2024, arXiv:2403.01427, algorithm 1",
    example=lambda problem: standardised(problem.apply, _sharper(problem), weight=0.5),
    neutral=Neutral({"weight": 0.0}),
)
def standardised(
    apply: Callable,
    params: Params,
    weight: float = 9.0,
    temperature: float = 2.0,
    hard_weight: float | None = 1.0,
    *,
    name: str = "distillation.standardised",
) -> Method:
    """Draws the student's standardised logits to a teacher's, so that it may have a scale of its own.

    The term is ``weight · temperature² · KL(teacher || student)`` at ``softmax(z / temperature)`` with
    ``z = (logits - mean) / (std + 1e-7)`` over the classes, the standard deviation being the unbiased one.

    Args:
      apply, params: the teacher's, as in `logits`.
      weight: of the term; data in ``hyper``, as are all numbers here.
      temperature: softens both distributions.
      hard_weight: of the task's term; None takes it out. The paper's is 0.1.
      name: the method's name, under which the teacher's parameters stand.

    Raises:
      ValueError: a temperature that is not positive; when tracing, a teacher of another vocabulary or positions.

    Example:
      >>> from ft_jax.core import Outputs
      >>> apply = lambda params, batch, key=None: Outputs(batch["x"] @ params["w"])
      >>> standardised(apply, {}, hard_weight=0.1).hyper
      {'weight': 9.0, 'temperature': 2.0, 'hard_weight': 0.1}
    """
    check_temperature(temperature, name)
    return of_logits(name, apply, params, standardised_rows, {"temperature": temperature}, weight, hard_weight)


@register(
    "distillation",
    paper="Zhao et al. 2022, arXiv:2203.08679, equation 7",
    example=lambda problem: dkd(problem.apply, _sharper(problem), weight=0.05),
    neutral=Neutral({"weight": 0.0}),
    needs=("labels",),
)
def dkd(
    apply: Callable,
    params: Params,
    weight: float = 1.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    hard_weight: float | None = 1.0,
    *,
    name: str = "distillation.dkd",
) -> Method:
    """Weighs what a teacher says of the true class and what it says of the others apart (decoupled distillation).

    The term is ``weight · temperature² · (alpha · TCKD + beta · NCKD)``, with TCKD the divergence of
    ``(p(target), 1 - p(target))`` and NCKD that of the distributions over the other classes, each from the teacher's to
    the student's. At ``alpha = 1`` and ``beta = 1 - p_teacher(target)`` it would be `logits`.

    Args:
      apply, params: the teacher's, as in `logits`.
      weight: of the term; data in ``hyper``, as are all numbers here.
      alpha: of the true class's part.
      beta: of the others' part; the paper takes 1 to 8.
      temperature: softens both distributions.
      hard_weight: of the task's term; None takes it out.
      name: the method's name, under which the teacher's parameters stand.

    Raises:
      KeyError: in training, a batch without labels.
      ValueError: a temperature that is not positive; when tracing, a teacher of another vocabulary or positions.

    Example:
      >>> from ft_jax.core import Outputs
      >>> apply = lambda params, batch, key=None: Outputs(batch["x"] @ params["w"])
      >>> dkd(apply, {}, hard_weight=None).hyper
      {'weight': 1.0, 'alpha': 1.0, 'beta': 8.0, 'temperature': 4.0}
    """
    check_temperature(temperature, name)
    hyper = {"alpha": alpha, "beta": beta, "temperature": temperature}
    return of_logits(name, apply, params, dkd_rows, hyper, weight, hard_weight, labelled=True)


def softened(logits, teacher_logits, hyper):
    """Both log-distributions, the student's first, and the factor that keeps the gradient's size."""
    temperature = hyper["temperature"]
    own, theirs = (jax.nn.log_softmax(x / temperature) for x in (logits, teacher_logits))
    return own, theirs, temperature**2


def kl(log_p, log_q):
    """``KL(p || q)`` over the last axis."""
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def mixture(share, log_p, log_q):
    """``log(share · p + (1 - share) · q)``."""
    # The logarithm of a share of 0 is finite, so that its gradient is 0 and not NaN.
    tiny = jnp.finfo(jnp.float32).tiny
    logs = [jnp.log(jnp.maximum(x, tiny)) for x in (share, 1 - share)]
    return jnp.logaddexp(logs[0] + log_p, logs[1] + log_q)


def reverse_rows(logits, teacher_logits, hyper):
    """``temperature² · KL(student || teacher)`` of each position."""
    own, theirs, factor = softened(logits, teacher_logits, hyper)
    return factor * kl(own, theirs)


def jsd_rows(logits, teacher_logits, hyper):
    """The generalised Jensen-Shannon divergence of each position, times ``temperature²``."""
    own, theirs, factor = softened(logits, teacher_logits, hyper)
    beta = hyper["beta"]
    mixed = mixture(beta, theirs, own)
    return factor * (beta * kl(theirs, mixed) + (1 - beta) * kl(own, mixed))


def skewed_rows(logits, teacher_logits, hyper):
    """``temperature² · KL(teacher || mixture)`` of each position."""
    own, theirs, factor = softened(logits, teacher_logits, hyper)
    return factor * kl(theirs, mixture(hyper["skew"], theirs, own))


def skewed_reverse_rows(logits, teacher_logits, hyper):
    """``temperature² · KL(student || mixture)`` of each position."""
    own, theirs, factor = softened(logits, teacher_logits, hyper)
    return factor * kl(own, mixture(hyper["skew"], own, theirs))


def standardised_rows(logits, teacher_logits, hyper):
    """``temperature² · KL(teacher || student)`` of each position's standardised logits."""

    def z(x):
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.sum(jnp.square(centred), axis=-1, keepdims=True) / (x.shape[-1] - 1)
        # The root has no gradient at 0, where all logits are one number.
        spread = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)
        return centred / (1e-7 + spread)

    own, theirs, factor = softened(z(logits), z(teacher_logits), hyper)
    return factor * kl(theirs, own)


def dkd_rows(logits, teacher_logits, hyper, labels):
    """``temperature² · (alpha · TCKD + beta · NCKD)`` of each position."""
    target = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)

    def parts(x):
        x = x / hyper["temperature"]
        # A large number and no infinity, whose differences are no number.
        others = jnp.where(target, -1e9, x)
        chosen = jnp.sum(jnp.where(target, x, 0.0), axis=-1)
        binary = jnp.stack([chosen, jax.nn.logsumexp(others, axis=-1)], axis=-1)
        return jax.nn.log_softmax(binary), jax.nn.log_softmax(others)

    (own, own_others), (theirs, their_others) = parts(logits), parts(teacher_logits)
    both = hyper["alpha"] * kl(theirs, own) + hyper["beta"] * kl(their_others, own_others)
    return hyper["temperature"] ** 2 * both
