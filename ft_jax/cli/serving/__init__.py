"""After training: ``ft-jax export``, ``predict``, ``generate`` and ``evaluate``, for which a run's folder is enough."""
