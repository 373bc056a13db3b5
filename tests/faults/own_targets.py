"""Readers of what runs wrote, of adapters of every kind, of pictures, and of what people type."""

import dataclasses
import functools
import io
import json
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
import optax
from faults.targets import GOLDEN, Target, base, copied, file_of
from PIL import Image
from training.small import experiment

from ft_jax import attention, models, transfer
from ft_jax.core import make_step, supervised
from ft_jax.core.step import parameters
from ft_jax.ensemble import merging
from ft_jax.ensemble.merging.folders import merge_folders
from ft_jax.models import MLPConfig
from ft_jax.models.checkpoints.tokenizers import tokenizer_of_folder
from ft_jax.models.peft.files import load_adapter
from ft_jax.training.overrides import override
from ft_jax.training.own_data.images import pixels
from ft_jax.training.predictions import Predictions, read_predictions
from ft_jax.training.report import write_report
from ft_jax.training.report.attention import attention_section
from ft_jax.training.run_folder import write_sealed
from ft_jax.training.saved_folders import SavedFolders
from ft_jax.training.serving import keep, load_run
from ft_jax.training.written_methods import use_of

ADAPTERS = {
    "loha": transfer.loha(2, targets="attention"),
    "vera": transfer.vera(4, targets="attention"),
    "fourierft": transfer.fourierft(8, targets="attention"),
    "ia3": attention.ia3(),
    "prompt": attention.prompt_tuning(2),
    "llama": attention.llama_adapter(2, 1),
}


@functools.cache
def _adapter(name: str) -> dict[str, bytes]:
    method = ADAPTERS[name]
    state = make_step(supervised(base().apply), optax.sgd(0.1), method).init(base().params, jax.random.key(0))
    with tempfile.TemporaryDirectory() as parent:
        folder = models.save_adapter(base(), parameters(state, method)["model"], Path(parent) / "adapter")
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def adapter(name: str, file: str):
    """Seeds an adapter's folder."""

    def seed(folder):
        for own, content in _adapter(name).items():
            (folder / own).write_bytes(content)
        return folder / file

    return seed


def _load_adapter(path):
    return load_adapter(path.parent, base())[0].name


def _model(path):
    return len(jax.tree.leaves(models.load(path.parent, tokenizer=False).params))


TOKENIZERS = {
    "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "b", "unk_token": "[UNK]", "model_max_length": 64,
    "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}", "clean_up_tokenization_spaces": False,
    "added_tokens_decoder": {"1": {"content": "b", "special": True}},
}  # fmt: skip


def _tokenizer_seed(folder):
    from faults.targets import tokenizer_seed

    tokenizer_seed(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZERS))
    return folder / "tokenizer_config.json"


def _kept_seed(name):
    @functools.cache
    def content():
        model = models.build(MLPConfig(image=(3, 3, 1), widths=(4,), classes=2), jax.random.key(0))
        with tempfile.TemporaryDirectory() as folder:
            place = keep(Path(folder), model, model.params, None, {"length": 3})
            return {path.name: path.read_bytes() for path in place.iterdir()}

    def seed(folder):
        (folder / "experiment.json").write_text("{}")
        (folder / "summary.json").write_text('{"status": "finished"}')
        (folder / "model").mkdir(exist_ok=True)
        for own, raw in content().items():
            (folder / "model" / own).write_bytes(raw)
        return folder / "model" / name

    return seed


def _kept(path):
    found = load_run(path.parents[1])
    return str(found.reads), [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(found.model.params)]


def _saved_seed(name):
    def seed(folder):
        store = SavedFolders(folder / "saved", 2)

        def start(place):
            place.mkdir()
            (place / "array").write_bytes(bytes(range(200)))
            return lambda: None

        store.write(7, 0, start, {"step": 7, "progress": {"task": 0, "place": [1, 2]}})
        store.wait()
        return folder / "saved" / "7" / name

    return seed


def _saved(path):
    return SavedFolders(path.parents[1], 2).read(7)[1]


def _report_seed(name):
    def seed(folder):
        run = folder / "run"
        run.mkdir(exist_ok=True)
        described = {"name": "points", "seed": 0, "command": ["ft-jax"], "versions": {"jax": "1"}, "method": []}
        write_sealed(run / "experiment.json", described)
        scores = {"before": {"test": {"loss": 0.9}}, "after": {"test": {"loss": 0.5, "accuracy": [0.5, 0.6]}}}
        write_sealed(run / "summary.json", {"status": "finished", "scores": scores, "steps": 5, "seconds": 1.0})
        told = [{"kind": "train", "step": step, "loss": 1.0 / step, "seconds": 0.1 * step} for step in range(1, 6)]
        told.append({"kind": "evaluation", "step": 5, "phase": "after", "set": "test", "loss": 0.5})
        told.append({"kind": "event", "step": 5, "cause": "patience", "message": "ended"})
        (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in told))
        maps = {"1": [[0.5, 0.5], [0.1, 0.9]]}
        (run / "attention.json").write_text(json.dumps({"examples": [{"tokens": ["a", "b"], "maps": maps}]}))
        return run / name

    return seed


def _report(path):
    page = write_report([path.parent], path.parents[1] / "report.html").read_text()
    assert "<script>alert" not in page
    return len(page) > 100


def _predictions():
    buffer = io.BytesIO()
    draw = np.random.default_rng(0)
    found = Predictions(("a",), draw.normal(size=(1, 9, 3)), draw.integers(0, 3, 9))
    np.savez_compressed(buffer, names=np.array(found.names), logits=found.logits, labels=found.labels)
    return buffer.getvalue()


def _read_predictions(path):
    found = read_predictions(path)
    return found.names, found.logits.tolist(), found.labels.tolist()


def _picture(kind):
    def content():
        buffer = io.BytesIO()
        Image.fromarray(np.arange(300, dtype=np.uint16).reshape(10, 10, 3).astype(np.uint8)).save(buffer, kind)
        return buffer.getvalue()

    return content


def _merge_seed(folder):
    for name in ("a", "b"):
        shutil.copytree(GOLDEN / "tiny_bert", folder / name, dirs_exist_ok=True)
    return folder / "b" / "config.json"


def _merged(path):
    folder = path.parents[1]
    merge_folders(merging.uniform(), [folder / "a", folder / "b"], folder / "out")
    return sorted(found.name for found in (folder / "out").iterdir())


def _typed(path):
    return path.read_bytes().decode("utf-8", "surrogateescape")


OWN = (
    *(Target(f"{name} adapter", adapter(name, "adapter_config.json"), _load_adapter, json=True) for name in ADAPTERS),
    Target("adapter's tensors", adapter("loha", "adapter_model.safetensors"), _load_adapter),
    Target("model's tensors", copied(GOLDEN / "tiny_llama", "model.safetensors"), _model),
    Target("tokenizer_config", _tokenizer_seed, lambda path: len(tokenizer_of_folder(path.parent)), json=True),
    Target("kept model", _kept_seed("model.json"), _kept, json=True, sure=True),
    Target("kept weights", _kept_seed("weights.safetensors"), _kept, sure=True),
    Target("checkpoint's record", _saved_seed("record.json"), _saved, json=True, sure=True),
    Target("checkpoint's array", _saved_seed("array"), _saved, sure=True),
    Target("report of an experiment", _report_seed("experiment.json"), _report, json=True),
    Target("report of a summary", _report_seed("summary.json"), _report, json=True),
    Target("report of metrics", _report_seed("metrics.jsonl"), _report),
    Target("attention maps", _report_seed("attention.json"), lambda p: str(attention_section(p.parent)), json=True),
    Target("predictions", file_of("a.npz", _predictions), _read_predictions, sure=True),
    *(Target(kind, file_of(f"a.{kind}", _picture(kind)), lambda path: pixels(str(path), (8, 8, 3)).shape)
      for kind in ("png", "jpeg", "gif", "bmp", "webp")),
    Target("merged configuration", _merge_seed, _merged, json=True),
    Target("override", file_of("words", lambda: b"--budget.steps 50 --hyper.optimizer.learning_rate 1e-3"),
           lambda path: str(dataclasses.asdict(override(experiment(), _typed(path).split(" ")).budget))),
    Target("written method", file_of("words", lambda: b"transfer.lora(rank=8, targets=['*query/kernel'], alpha=2.0)"),
           lambda path: str(use_of(_typed(path)))),
)  # fmt: skip
