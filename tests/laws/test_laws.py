"""The laws of composition, over every method in the catalogue: ``pytest tests/laws -k transfer.lora``."""

import pytest

import ft_jax
from ft_jax.testing import laws
from ft_jax.testing.check import check_law
from ft_jax.testing.subject import subject

NAMES = tuple(ft_jax.catalogue)


def over_every_method(law):
    @pytest.mark.parametrize("name", NAMES)
    def test(name, law_counts):
        reason = check_law(subject(name), law)
        law_counts.append({"laws of single methods": 1})
        if reason is not None:
            pytest.skip(reason)

    test.__doc__ = law.__doc__
    return test


for law in laws.LAWS:
    globals()[f"test_{law.__name__}"] = over_every_method(law)
