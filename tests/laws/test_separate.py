"""Every law by itself and on two layers, over every method in the catalogue: ``make laws``.

Second-order methods on two layers round sums of another order to some 3e-5 in three steps, where one layer of ``make
test`` stays within 1e-5; what a law is broken by shows above 1e-3.
"""

import pytest
from laws.test_laws import NAMES

from ft_jax.testing import laws, separate
from ft_jax.testing.check import check_law
from ft_jax.testing.comparing import rounding
from ft_jax.testing.subject import subject

pytestmark = pytest.mark.laws


def over_every_method(law):
    @pytest.mark.parametrize("name", NAMES)
    def test(name, law_counts):
        with rounding(10.0):
            reason = check_law(subject(name, layers=2), law)
        law_counts.append({"laws of single methods": 1})
        if reason is not None:
            pytest.skip(reason)

    test.__doc__ = law.__doc__
    return test


for law in (*laws.LAWS, *separate.SEPARATE):
    globals()[f"test_{law.__name__}"] = over_every_method(law)
