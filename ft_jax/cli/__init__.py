"""The command line: ``ft-jax run``, ``list``, ``methods``, ``report`` and ``fetch``."""

from ft_jax.cli.entry import main

__all__ = ["main"]
