"""Every law by itself and on two layers, over every method in the catalogue: ``make laws``."""

import pytest
from laws.test_laws import NAMES

from ft_jax.testing import laws, separate
from ft_jax.testing.check import check_law
from ft_jax.testing.subject import subject

pytestmark = pytest.mark.laws


def over_every_method(law):
    @pytest.mark.parametrize("name", NAMES)
    def test(name, law_counts):
        reason = check_law(subject(name, layers=2), law)
        law_counts.append({"laws of single methods": 1})
        if reason is not None:
            pytest.skip(reason)

    test.__doc__ = law.__doc__
    return test


for law in (*laws.LAWS, *separate.SEPARATE):
    globals()[f"test_{law.__name__}"] = over_every_method(law)
