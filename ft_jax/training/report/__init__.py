"""The report of runs: what is read from their folders, its charts, and the page."""

from ft_jax.training.report.report import write_report

__all__ = ["write_report"]
