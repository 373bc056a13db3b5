"""Knowledge distillation: a student learns from a teacher.

- `logits`: the student's softened distribution is drawn to the teacher's.
"""

from ft_jax.distillation.logits import logits

__all__ = ["logits"]
