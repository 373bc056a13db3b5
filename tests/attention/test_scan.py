import jax
import numpy as np
import pytest
from attention.tiny import DECODER, logits, started, trained

from ft_jax import attention
from ft_jax.core import compose
from ft_jax.models.networks.parts.stacking import stack_layers, unstack_layers

SCANNED = DECODER.configure(scan=True)
METHODS = {
    "virtual": compose(attention.prefix_tuning(2, projection=3), attention.p_tuning_v2(2), attention.llama_adapter(2)),
    "gates": compose(
        attention.head_gates(heads=2, sampled=True),
        attention.token_gates(),
        attention.sliding_window(3),
        attention.shifted_sparse(4, in_evaluation=True),
        attention.head_pruning(SCANNED.apply),
    ),
}


def test_a_scanned_decoder_has_stacked_parameters():
    assert jax.tree.all(jax.tree.map(np.array_equal, SCANNED.params, stack_layers(DECODER.params)))


@pytest.mark.parametrize("kind", METHODS)
def test_grafts_on_layers_in_one_scan_do_what_they_do_unrolled(kind):
    _, seen = started(METHODS[kind], SCANNED)
    np.testing.assert_allclose(logits(SCANNED, seen), logits(DECODER, unstack_layers(seen)), atol=1e-5)
    _, history = trained(METHODS[kind], SCANNED, steps=4, rate=0.5)
    assert history[-1]["task"] < history[0]["task"]


def test_some_of_the_layers_of_a_scan_are_refused():
    with pytest.raises(ValueError, match="layers run in one scan; give layers=None"):
        started(attention.llama_adapter(2, layers=1), SCANNED)
