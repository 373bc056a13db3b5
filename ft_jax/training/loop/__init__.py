"""The parts of `ft_jax.training.fit`: what a run saves, how it ends, and the numbers it tells of."""
