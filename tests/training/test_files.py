import json
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.small import Linear, Points, experiment, points, same_bits

from ft_jax import data
from ft_jax.core import make_step, supervised
from ft_jax.training import Task, Use, fit
from ft_jax.training.checkpoint import AnotherCheckpoint, Checkpoints, checksum
from ft_jax.training.logging import Log, cut_lines
from ft_jax.training.run_folder import describe, write_json
from ft_jax.training.stream import Feeder, check_batch, first_batch
from ft_jax.transfer import head_only


def state_of(width=8, seed=0, method=head_only):
    model = Linear(width=width).build(jax.random.key(seed))
    program = make_step(supervised(model.apply), optax.adam(0.1), method())
    return program, program.init(model.params, jax.random.key(1))


def test_checkpoint_gives_back_every_bit(tmp_path):
    program, state = state_of()
    store = Checkpoints(tmp_path, ("transfer.head_only",), state)
    batch = next(data.batches(points(40, 0), 8))
    state, _ = program.step(state, batch)
    store.save(state, {"place": {"order": 3}})
    restored, record = store.restore()
    same_bits(state.replace(frozen=None), restored)
    assert record == {"place": {"order": 3}} and store.newest() == 1
    store.close()


def test_state_may_be_donated_while_it_is_saved(tmp_path):
    tree = jnp.arange(4_000_000.0)
    _, state = state_of()
    state = state.replace(memory={"big": tree})
    store = Checkpoints(tmp_path, (), state)
    overwrite = jax.jit(lambda memory: memory * 0 - 1, donate_argnums=0)
    store.save(state, {})
    jax.block_until_ready(overwrite(state.memory["big"]))
    store.wait()
    template = state.replace(memory={"big": jnp.arange(4_000_000.0)})
    restored, _ = Checkpoints(tmp_path, (), template).restore()
    np.testing.assert_array_equal(restored.memory["big"], np.arange(4_000_000.0))


@pytest.mark.parametrize(
    ("names", "width", "seed", "sentence"),
    [
        (("transfer.full",), 8, 0, "is of transfer.head_only, not of transfer.full"),
        (("transfer.head_only",), 16, 0, r"of another model: .* is float32\[4, 8\] there and float32\[4, 16\] here"),
        (("transfer.head_only",), 8, 5, "stands on other frozen weights of the same shapes"),
    ],
)
def test_checkpoint_of_something_else_is_refused_in_one_sentence(tmp_path, names, width, seed, sentence):
    _, state = state_of()
    store = Checkpoints(tmp_path, ("transfer.head_only",), state)
    store.save(state, {})
    store.close()
    with pytest.raises(AnotherCheckpoint, match=sentence) as error:
        Checkpoints(tmp_path, names, state_of(width, seed)[1]).restore()
    assert "\n" not in str(error.value)


def test_checksum_sees_one_bit_and_no_order_of_devices():
    tree = {
        "w": jnp.arange(64.0).reshape(8, 8),
        "codes": jnp.arange(5, dtype=jnp.uint8),
        "half": jnp.ones(3, jnp.bfloat16),
    }
    mesh = jax.make_mesh((8,), ("x",))
    spread = jax.device_put(tree["w"], jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x")))
    assert checksum(tree) == checksum({**tree, "w": spread})
    changed = tree["w"].at[3, 3].set(np.nextafter(np.float32(27), np.float32(28)))
    assert checksum(tree) != checksum({**tree, "w": changed})


def test_run_folder_of_another_experiment_is_refused_and_left_alone(tmp_path):
    fit(experiment(), run=tmp_path, quiet=True)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = experiment(method=(Use("transfer.lora", rank=2, targets=("*/layer/*",)),))
    with pytest.raises(ValueError, match=r"holds another experiment, whose method.0.name is 'transfer.full' and not"):
        fit(other, run=tmp_path, quiet=True)
    with pytest.raises(ValueError, match="holds a run already"):
        fit(experiment(), run=tmp_path, quiet=True, resume=False)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds files but no experiment.json"):
        fit(experiment(), run=tmp_path, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_description_is_the_same_in_every_process():
    made = experiment(metrics={"right": lambda predictions, batch: (0.0, 1.0)}, data=Points((0.0, 1.0)))
    told = json.dumps(describe(made), sort_keys=True)
    assert told == json.dumps(describe(experiment(metrics=made.metrics, data=Points((0.0, 1.0)))), sort_keys=True)
    assert "0x" not in told


def test_json_is_whole_or_not_there(tmp_path):
    write_json(tmp_path / "a.json", {"x": [1, float("nan")]})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, None]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_lines_past_the_checkpoint_and_a_torn_one_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 4}\n{"step": 2}\n{"st')
    cut_lines(path, 3)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_logging_never_waits_for_a_value(tmp_path):
    class Slow:
        """Stands for an array that is still being computed."""

        released = threading.Event()

        def __array__(self, dtype=None, copy=None):
            self.released.wait(10)
            return np.float64(1.5)

    log = Log(tmp_path, total=10, start=-1, quiet=True)
    begin = time.perf_counter()
    log.train(1, {"loss": Slow()}, lambda: 0.0, 0, 0)
    log.event(1, "cause", "message")
    assert time.perf_counter() - begin < 1 and not (tmp_path / "metrics.jsonl").read_text()
    Slow.released.set()
    log.close()
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert kinds == ["train", "event"]


def test_prefetched_batches_do_not_move_the_saved_place():
    task = Task("points", data.batches(points(40, 0), 8, seed=3))
    want = [next(task.train)["x"] for _ in range(6)]
    task = Task("points", data.batches(points(40, 0), 8, seed=3))
    with Feeder(task, lambda batch: batch, ahead=3) as feeder:
        fed = [feeder.take(lambda: None) for _ in range(2)]
        time.sleep(0.2)
    again = Task("points", data.batches(points(40, 0), 8, seed=3))
    again.train.set_state(json.loads(json.dumps(fed[-1].place)))
    with Feeder(again, lambda batch: batch) as feeder:
        for index in range(2, 6):
            np.testing.assert_array_equal(feeder.take(lambda: None).host["x"], want[index])


def test_failure_of_the_source_reaches_the_trainer():
    class Broken:
        def __next__(self):
            raise OSError("the disk is gone")

        def get_state(self):
            return None

        def set_state(self, state):
            pass

    with Feeder(Task("broken", Broken()), lambda batch: batch) as feeder, pytest.raises(OSError, match="disk is gone"):
        feeder.take(lambda: None)


def test_source_that_ends_is_refused():
    task = Task("short", data.batches(points(16, 0), 8, epochs=1))
    assert first_batch(task)["x"].shape == (8, 4)
    with Feeder(task, lambda batch: batch) as feeder:
        feeder.take(lambda: None), feeder.take(lambda: None)
        with pytest.raises(ValueError, match="task 'short' ran out of batches"):
            feeder.take(lambda: None)


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        ({}, "a batch is a dict of arrays"),
        ({"x": np.float32(1)}, "'x' without an example axis"),
        ({"x": np.array(["a"])}, "'x' of type <U1"),
        ({"part": {"x": np.array([1.0, np.inf])}}, "field 'part/x' that is not finite"),
        ({"x": np.zeros((0, 2))}, "empty field 'x'"),
    ],
)
def test_bad_batch_is_one_sentence(batch, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_batch(batch, "task 'a'")
