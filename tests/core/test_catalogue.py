import pytest

import ft_jax
from ft_jax.core.catalogue import FAMILIES, Catalogue, Entry


def test_every_family_has_a_method_and_every_method_a_paper_and_documentation():
    assert {entry.family for entry in ft_jax.catalogue.values()} == set(FAMILIES)
    for name, entry in ft_jax.catalogue.items():
        assert entry.name == name == f"{entry.family}.{entry.build.__name__}"
        assert any(character.isdigit() for character in entry.paper), name
        assert len(entry.build.__doc__) > 200 and ">>>" in entry.build.__doc__, name


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(KeyError, match="no method is called 'transfer.lara'; the nearest are transfer.lora"):
        ft_jax.catalogue["transfer.lara"]


def entry(**changes):
    fields = {"family": "transfer", "name": "transfer.x", "paper": "A 2020"}
    return Entry(**{**fields, "build": lambda: None, "example": lambda problem: None, **changes})


def test_a_wrong_entry_is_refused():
    own = Catalogue()
    own.add(entry())
    for wrong, said in [
        (entry(), "in the catalogue already"),
        (entry(family="transfr", name="transfr.x"), "family 'transfr' of transfr.x is unknown"),
    ]:
        with pytest.raises(ValueError, match=said):
            own.add(wrong)
