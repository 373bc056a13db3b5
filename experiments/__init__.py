"""Experiments by family: each file defines ``experiment``, and where it compares, its ``baselines`` and ``claims``."""
