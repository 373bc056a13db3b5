"""The laws of composition, over every method in the catalogue: ``pytest tests/laws -k transfer.lora``."""

import pytest

import ft_jax
from ft_jax.testing import laws, padding
from ft_jax.testing.check import check_law
from ft_jax.testing.subject import subject

NAMES = tuple(ft_jax.catalogue)


# They count padded examples, until shares of the whole batch take the place of each loss's own mean.
COUNTING_PADDING = (
    "transfer.dann", "transfer.fixmatch", "transfer.uda", "meta.maml", "multimodal.clip", "rl.dpo",
    "attention.supervision", "attention.transfer",
)  # fmt: skip


def over_every_method(law):
    @pytest.mark.parametrize("name", NAMES)
    def test(name, law_counts, request):
        if law is padding.padding_counts_nothing and name in COUNTING_PADDING:
            request.applymarker(pytest.mark.xfail(strict=False))
        reason = check_law(subject(name), law)
        law_counts.append({"laws of single methods": 1})
        if reason is not None:
            pytest.skip(reason)

    test.__doc__ = law.__doc__
    return test


for law in laws.LAWS:
    globals()[f"test_{law.__name__}"] = over_every_method(law)
