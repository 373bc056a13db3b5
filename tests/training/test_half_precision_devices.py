"""A model in a type that the device doesn't compute in is refused before anything is trained."""

import dataclasses
from types import SimpleNamespace

import jax
import pytest
from training.small import Tokens, experiment

from ft_jax import models
from ft_jax.models.networks.parts import attention
from ft_jax.training import EvaluationSpec, fit
from ft_jax.training.prepare import notes_of, prepare


@dataclasses.dataclass(frozen=True)
class Half:
    dtype: str

    def build(self, key):
        return models.tiny_decoder(key, vocabulary=32, layers=1).configure(dtype=self.dtype)


def half(dtype):
    return experiment(model=Half(dtype), data=Tokens(), evaluation=EvaluationSpec())


def test_a_float16_model_on_a_device_without_it_is_one_sentence_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="float16, whose products a cpu does not have; take dtype='bfloat16'") as error:
        fit(half("float16"), run=tmp_path / "run", quiet=True)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_where_the_device_has_it_the_run_is_told_of_its_range(monkeypatch):
    gpu = SimpleNamespace(platform="gpu", compute_capability="7.0")
    monkeypatch.setattr(attention, "traced_device", lambda: gpu)
    assert any("65,504" in note for note in notes_of(prepare(half("float16"))))
    assert not any("65,504" in note for note in notes_of(prepare(half("bfloat16"))))


@pytest.mark.parametrize("dtype", ["int8", "flaot16", "float64"])
def test_a_type_that_no_network_computes_in_is_refused_where_it_is_given(dtype):
    with pytest.raises(ValueError, match=f"DecoderConfig.dtype is '{dtype}'; compute in float32, bfloat16, float16"):
        models.tiny_decoder(jax.random.key(0)).configure(dtype=dtype)
