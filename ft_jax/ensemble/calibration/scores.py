"""How good and how honest predicted probabilities are."""

import dataclasses

import numpy as np

from ft_jax.ensemble.calibration.softmax import checked, log_softmax


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of predictions on labelled examples.

    Attributes:
      accuracy: share whose likeliest class is the label.
      log_likelihood: mean ``log p(label)``, in nats.
      brier: mean ``Σ_c (p_c - [c = label])²`` (Brier 1950).
      ece: expected calibration error, see `reliability`.
      count: of examples, or of tokens.
    """

    accuracy: float
    log_likelihood: float
    brier: float
    ece: float
    count: int


def scores(logits, labels, *, bins: int = 15) -> Scores:
    """Accuracy, log-likelihood, Brier score and calibration error.

    Args:
      logits: ``[rows, classes]`` or ``[rows, time, vocabulary]``; log-probabilities are logits too.
      labels: ``[rows]`` or ``[rows, time]``; negative ones don't count.
      bins: of the calibration error.

    Raises:
      ValueError: shapes that don't fit or no labelled example.

    Example:
      >>> found = scores(np.log(np.array([[0.8, 0.2], [0.6, 0.4]])), np.array([0, 1]))
      >>> found.accuracy, round(found.log_likelihood, 3), round(found.brier, 2), round(found.ece, 2)
      (0.5, -0.57, 0.4, 0.4)
    """
    logits, labels = checked(logits, labels, "scoring")
    logs = log_softmax(logits)
    rows = np.arange(len(labels))
    errors = np.exp(logs)
    errors[rows, labels] -= 1
    return Scores(
        accuracy=float(np.mean(logs.argmax(axis=1) == labels)),
        log_likelihood=float(logs[rows, labels].mean()),
        brier=float(np.square(errors).sum(axis=1).mean()),
        ece=reliability(logits, labels, bins=bins).error,
        count=len(labels),
    )


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy, in bins of equal width.

    Attributes:
      confidence, accuracy: mean of each bin that has examples.
      share: of the examples that fall into it.
      bins: how many there are, empty ones with them.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    share: np.ndarray
    bins: int

    @property
    def error(self) -> float:
        """``Σ_b share_b |accuracy_b - confidence_b|``: the expected calibration error (Naeini et al. 2015)."""
        return float(np.sum(self.share * np.abs(self.accuracy - self.confidence)))

    def picture(self, title: str = "Reliability") -> str:
        """The reliability diagram as an ``<svg>`` element: accuracy in bars, gaps to the confidence, the diagonal."""
        side, edge = 220, 34
        width = side / self.bins
        parts = []
        for confidence, accuracy, share in zip(self.confidence, self.accuracy, self.share, strict=True):
            left = edge + min(int(confidence * self.bins), self.bins - 1) * width
            low, high = sorted((accuracy, confidence))
            tip = f"<title>confidence {confidence:.3f}, accuracy {accuracy:.3f}, {share:.1%} of the examples</title>"
            bar = 'x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"'
            size = (left, 12 + side * (1 - accuracy), width - 1, side * accuracy)
            gap = (left, 12 + side * (1 - high), width - 1, side * (high - low))
            parts.append(f'<rect {bar.format(*size)} fill="#4477aa">{tip}</rect>')
            parts.append(f'<rect {bar.format(*gap)} fill="#cc6677" fill-opacity="0.6">{tip}</rect>')
        diagonal = f'<path d="M{edge} {12 + side}L{edge + side} 12" stroke="currentColor" stroke-dasharray="4"/>'
        frame = f'<rect x="{edge}" y="12" width="{side}" height="{side}" fill="none" stroke="currentColor"/>'
        words = "".join(
            f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{word}</text>'
            for x, y, anchor, word in (
                (edge, side + 26, "middle", "0"), (edge + side, side + 26, "middle", "1"),
                (edge + side / 2, side + 26, "middle", "confidence"), (edge - 6, 18, "end", "1"),
                (edge - 6, side + 12, "end", "0"), (edge + 6, 26, "start", f"ECE {self.error:.4f}"),
            )
        )  # fmt: skip
        label = f"{title}: accuracy against confidence in {self.bins} bins, calibration error {self.error:.4f}"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {edge + side + 12} {side + 34}" width="320" '
            f'font-family="sans-serif" font-size="11" fill="currentColor" role="img" aria-label="{label}">'
            f"<title>{label}</title>{''.join(parts)}{diagonal}{frame}{words}</svg>"
        )


def reliability(logits, labels, *, bins: int = 15) -> Reliability:
    """Examples by the probability of their likeliest class, in bins of equal width.

    Args:
      logits: ``[rows, classes]`` or ``[rows, time, vocabulary]``.
      labels: ``[rows]`` or ``[rows, time]``; negative ones don't count.
      bins: how many.

    Raises:
      ValueError: shapes that don't fit, no labelled example, or no bin.

    Example:
      >>> found = reliability(np.log(np.array([[0.9, 0.1], [0.7, 0.3]])), np.array([0, 1]), bins=5)
      >>> found.accuracy.tolist(), round(found.error, 2)
      ([0.0, 1.0], 0.4)
    """
    if bins < 1:
        raise ValueError(f"a calibration error over {bins} bins has none; give at least 1")
    logits, labels = checked(logits, labels, "a reliability diagram")
    probabilities = np.exp(log_softmax(logits))
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    full = counts > 0
    sums = [np.bincount(place, weights=x, minlength=bins)[full] / counts[full] for x in (confidence, correct)]
    return Reliability(sums[0], sums[1], counts[full] / len(labels), bins)
