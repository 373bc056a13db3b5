"""Published numbers measured again: one file a row, each defining ``reproduction``; see ``ft-jax reproduce``."""
