import json

import jax
import numpy as np
import pytest
from data.byte_tokenizers import byte_level, saved
from training.serving import small_runs

from benchmarks import another_tokenizer, cached_teacher, case, gradcache, trace
from benchmarks.case import Options
from benchmarks.pipeline import Tokenised
from benchmarks.shapes import shape
from ft_jax.cli import main
from ft_jax.cli.bench import EVERYTHING


@pytest.fixture(scope="module")
def throughput(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    words = ["throughput", "--size", "tiny", "--methods", "lora", "--repeats", "2", "--rank", "4"]
    status = main(["bench", *words, "--out", str(folder), "--profile", str(folder / "trace")])
    lines = (folder / "throughput.jsonl").read_text(encoding="utf-8").splitlines()
    return status, [json.loads(line) for line in lines], folder


def test_a_row_states_its_floor_its_gap_and_what_it_ran_on(throughput):
    status, lines, _ = throughput
    row = lines[-1]
    assert status == 0 and row["method"] == "lora" and row["compilations"] == 1
    assert row["gap"] == pytest.approx(row["seconds"]["median"] / row["floor_seconds"])
    assert row["floor_seconds"] >= row["flops"] / row["matrix_rate"]
    assert row["tokens_per_second"] == pytest.approx(32 / row["seconds"]["median"])
    assert row["temporary_bytes"] > 0 and {"device", "jax", "optax"} <= set(row)


def test_a_profile_names_the_slowest_operations_and_leaves_a_trace(throughput):
    _, lines, folder = throughput
    operations = [line for line in lines if line.get("kind") == "operation"]
    assert 0 < len(operations) <= 10 and list((folder / "trace").rglob("*.xplane.pb"))
    spent = [line["milliseconds"] for line in operations]
    assert spent == sorted(spent, reverse=True) and sum(line["share"] for line in operations) <= 1.0
    assert any("dot" in line["operation"] or "fusion" in line["operation"] for line in operations)


def test_operations_of_a_device_are_those_of_the_compiled_program():
    events = [
        {"ph": "X", "name": "kernel_a", "dur": 3, "args": {"hlo_op": "fusion.1"}},
        {"ph": "X", "name": "kernel_b", "dur": 4, "args": {"hlo_op": "fusion.1"}},
        {"ph": "X", "name": "host", "dur": 100},
        {"ph": "M", "name": "process"},
    ]
    spent, calls = trace.operations(events)
    assert spent == {"fusion.1": 7} and calls == {"fusion.1": 2}


def test_a_population_equals_its_members_one_after_another():
    row = next(case.rows("populations", Options(size="tiny", members=2, batch=2, time=8, repeats=1, rank=2)))
    assert row["members"] == 2 and row["largest_loss_difference"] < 1e-5 and row["ratio"] > 0


def test_the_allocator_is_measured_with_memory_kept_and_without():
    row = next(case.rows("allocator", Options(size="tiny", repeats=1)))
    assert row["ratio"] > 0 and row["peak_bytes"] > 1e8 and row["kept_page_faults"] >= 0


def test_steps_are_held_against_their_parts():
    found = {row["method"]: row for row in case.rows("composition", Options(size="tiny", repeats=2, rank=2))}
    assert list(found) == ["distillation", "soft", "full+distillation", "dpo", "composed"]
    times = found["dpo"]["seconds"]
    assert {"lora", "full", "ewc", "uncertainty", "forward", *found} == set(times)
    assert all(row["ratio_range"][0] <= row["ratio"] <= row["ratio_range"][1] for row in found.values())


def test_compilation_is_measured_cold_and_from_the_cache():
    row = next(case.rows("compilation", Options(size="tiny")))
    assert row["cold_seconds"] > 0 and row["cached_seconds"] > 0


def test_a_checkpoint_says_what_a_step_waits_and_what_its_digests_take():
    row = next(case.rows("checkpoints", Options(size="tiny", repeats=1)))
    assert row["state_bytes"] == pytest.approx(2**20, rel=0.01) and row["file_bytes"] > 0.8 * row["state_bytes"]
    assert 0 < row["digest_seconds"] < row["in_place_after_seconds"] and row["step_waits_seconds"] > 0


def test_the_pipeline_says_how_long_the_device_waited():
    row = next(case.rows("pipeline", Options(size="tiny", repeats=1, rank=2)))
    assert 0 <= row["wait_share"] < 1 and row["compilations"] == 1 and row["log_seconds"]["max"] < 0.1


def test_gradcache_holds_less_for_a_third_more_products_and_gives_its_loss(monkeypatch):
    monkeypatch.setattr(gradcache, "TIMES", (4,))
    whole, parts = case.rows("gradcache", Options(size="tiny"))
    assert (whole["micro_batches"], parts["micro_batches"], parts["batch"]) == (1, 4, 16)
    assert parts["temporary_bytes"] < 0.5 * whole["temporary_bytes"]
    assert parts["flops"] == pytest.approx(4 / 3 * whole["flops"], rel=0.02)
    (row,) = case.rows("gradcache", Options(size="tiny", methods=("seconds",), repeats=1))
    assert row["difference_of_losses"] < 1e-5 and row["ratio"] > 0
    with pytest.raises(ValueError, match="gradcache measures no 'speed'; use memory, seconds"):
        next(case.rows("gradcache", Options(methods=("speed",))))


def test_a_cached_teacher_takes_the_bytes_it_says_and_leaves_the_step(monkeypatch, tmp_path):
    folder = small_runs.decoder_folder(tmp_path / "teacher", layers=4)
    monkeypatch.setattr(cached_teacher, "TEACHERS", {"tiny": (str(folder), 2)})
    monkeypatch.setattr(cached_teacher, "ROWS", 8)
    monkeypatch.setattr(cached_teacher, "TOP", 4)
    asked = Options(size="tiny", methods=cached_teacher.METHODS, batch=4, time=16, repeats=1)
    disk, live, cached, taken = case.rows("cached_teacher", asked)
    assert 0 <= disk["bytes"] - disk["tokens"] * (4 * 4 + 2 * 4 + 2) < 4096
    assert disk["bytes_a_token"] * disk["tokens"] == pytest.approx(disk["bytes"])
    assert (live["way"], cached["way"]) == ("live", "cached") and cached["argument_bytes"] < live["argument_bytes"]
    said = taken["divergence"]
    assert 0 < said["cached"] <= said["live"] + 1e-3 and taken["ratio"] > 0
    with pytest.raises(ValueError, match="cached_teacher measures no 'speed'; use disk, memory, seconds"):
        next(case.rows("cached_teacher", Options(methods=("speed",))))


def test_another_tokenizers_teacher_is_measured_beside_both_passes(monkeypatch, tmp_path):
    texts = (["film", " good"], 272), (["fi", " go"], 280)
    pair = [saved(tmp_path / str(key), key, byte_level(pieces), size) for key, (pieces, size) in enumerate(texts)]
    monkeypatch.setattr(another_tokenizer, "PAIRS", {"tiny": pair})
    monkeypatch.setattr(another_tokenizer, "ROWS", 8)
    asked = Options(size="tiny", methods=("sorted", "top"), batch=2, time=16, repeats=1, rank=2)
    whole, top = case.rows("another_tokenizer", asked)
    assert 0 < whole["groups"] <= min(whole["labels"]) and whole["batch"] == [2, 16]
    assert 0 < top["distance"] <= whole["distance"] + 1e-6 and min(whole["ratio"], top["ratio"]) > 0
    with pytest.raises(ValueError, match="another_tokenizer measures no 'speed'; use sorted, top"):
        next(case.rows("another_tokenizer", Options(methods=("speed",))))


def test_tokenised_batches_follow_from_their_place():
    source = Tokenised(2, 6, 50)
    next(source)
    place, second = source.get_state(), next(source)
    source.set_state(place)
    jax.tree.map(np.testing.assert_array_equal, second, next(source))


def test_everything_is_made_of_cases_and_steps_that_exist():
    from benchmarks.programs import METHODS

    for name, settings in EVERYTHING:
        assert name in case.cases()
        assert set(settings.get("methods", ())) <= set(METHODS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nope"], "there is no benchmark 'nope'; use all, allocator"),
        (["throughput", "--size", "huge"], "there is no shape 'huge'; use one of tiny"),
        (["throughput", "--size", "tiny", "--methods", "sorcery"], "there is no step 'sorcery'; use one of full"),
    ],
)
def test_a_wrong_choice_is_one_sentence(words, said, tmp_path, capsys):
    assert main(["bench", *words, "--out", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


def test_the_peer_without_torch_says_what_to_install(tmp_path, capsys, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest))
    words = ["throughput", "--size", "tiny", "--methods", "full", "--peer", "--repeats", "1", "--out", str(tmp_path)]
    assert main(["bench", *words]) == 2
    assert "needs torch" in capsys.readouterr().err


def test_a_shape_takes_changes_of_batch_and_configuration():
    changed = shape("tiny", batch=3, remat="dots", dtype="bfloat16")
    assert (changed.batch, changed.config.remat, changed.model(None).config.dtype) == (3, "dots", "bfloat16")
