"""Each experiment of the tour reaches what its file claims."""

import pytest

from experiments.study import run
from experiments.tour import TOUR


def test_the_tour_has_an_experiment_of_each_family():
    from ft_jax.core.catalogue import FAMILIES

    assert sorted(name.partition("/")[0] for name in TOUR) == sorted(FAMILIES)


@pytest.mark.experiment
@pytest.mark.parametrize("name", TOUR)
def test_an_experiment_reaches_what_its_file_claims(name, tmp_path):
    _, claims = run(name, tmp_path)
    assert claims and all(claim.met for claim in claims), [claim.text for claim in claims]
