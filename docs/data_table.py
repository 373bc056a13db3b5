"""Writes the tables of docs/data.md: ``python docs/data_table.py``.

Every row is a small file, template or head that is made now, read as a run reads it, and told; a refusal is told too.
"""

import gzip
import json
import tempfile
import warnings
from pathlib import Path

import jax
import marks
import numpy as np
import tokenizers
from transformers import PreTrainedTokenizerFast

from ft_jax import data, models
from ft_jax.data.chats import render
from ft_jax.data.description import form_of, understood
from ft_jax.training.metrics import default_metrics
from ft_jax.training.objective import LOSSES, target_of

HERE = Path(__file__).parent
PAGE = HERE / "data.md"

LINES = '{"text": "a film", "label": "good"}\n{"text": "a plot", "label": "bad"}\n'
COMMAS = "text,label\na film,good\na plot,bad\n"

FILES = {
    "rows.jsonl": LINES,
    "rows.jsonl.gz": LINES,
    "rows.json": '[{"text": "a film", "label": "good"}, {"text": "a plot", "label": "bad"}]',
    "columns.json": '{"text": ["a film", "a plot"], "label": ["good", "bad"]}',
    "ROWS.CSV": COMMAS,
    "rows.csv.gz": COMMAS,
    "rows.tsv": 'text\tlabel\n"a film\tgood\na plot\tbad\n',
    "optional.jsonl": '{"text": "a film", "label": "good"}\n{"text": "a plot", "label": "bad", "year": 1999}\n',
    "types.jsonl": '{"text": "a", "w": [1, 1]}\n{"text": "b", "w": [0.5, 0.25]}\n',
    "codes.csv": "text,code\n1,007\n2,012\n",
    "swallowed.csv": 'text,label\n"a film,good\na plot,bad\nan end",good\n',
    "wide.csv": "text,label\na film, good,good\n",
    "rows.txt": "a film\n",
}

LABELS = {
    "names": ["good", "bad", "good"],
    "true and false": [True, False, True],
    "whole numbers": [2, 0, 1],
    "numbers": [0.5, -1.0, 2.0],
    "lists of names": [["x"], [], ["x", "y"]],
    "lists of 0 and 1": [[1, 0], [0, 0], [1, 1]],
    "lists of numbers": [[0.5, 2.0], [1.0, 0.0], [0.0, 0.0]],
    "one that is null": ["good", None, "bad"],
    "one that is empty": ["good", "", "bad"],
    "names and numbers": ["good", 1, "bad"],
    "names that differ in a space": ["good", "good ", "bad"],
}

PLAIN = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEMPLATES = {
    "writes every turn once": PLAIN,
    "leaves thoughts out of earlier turns": PLAIN.replace(
        "{{ m.content }}", "{{ m.content if loop.last else m.content.split('</think>')[-1] }}"
    ),
    "marks what the model writes": PLAIN.replace(
        "{{ m.content }}<|end|>",
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>{% endgeneration %}{% else %}"
        "{{ m.content }}<|end|>{% endif %}",
    ),
    "drops earlier turns": PLAIN.replace("{% for m in messages %}", "{% for m in messages[-2:] %}"),
}
DIALOGUE = [
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "<think>hm</think>two"},
    {"role": "user", "content": "three"},
    {"role": "assistant", "content": "<think>so</think>four"},
]

HEADS = {
    "classification, 3 outputs": ("classification", 3),
    "classification, 1 output": ("classification", 1),
    "regression, 1 output": ("regression", 1),
    "regression, 3 outputs": ("regression", 3),
    "token_classification, 3 outputs": ("token_classification", 3),
    "value": ("value", None),
}
TARGETS = {
    "whole numbers [batch]": np.array([0, 2], np.int32),
    "floats [batch]": np.array([0.5, -2.0], np.float32),
    "floats 0 to 1 [batch, 3]": np.array([[1, 0, 1], [0, 0, 1]], np.float32),
    "floats [batch, 3]": np.array([[1.5, 0, 1], [0, -3, 1]], np.float32),
    "whole numbers [batch, time]": np.array([[0, 2, 1, -1], [1, 1, -1, -1]], np.int32),
    "floats [batch, time]": np.array([[0.5, 2, 1, 0], [1, 1, 0, 0]], np.float32),
}


def told(dataset: data.Dataset) -> str:
    """Columns with roles and types."""
    return "; ".join(f"`{name}` {one.role}, {one.type}" for name, one in understood(dataset).items())


def refusal(error: Exception, folder: str = "") -> str:
    """An error's sentence, without the folder that a file is in."""
    message = str(error.args[0]) if isinstance(error, KeyError) else str(error)
    return f"refused: {message.replace(folder + '/', '')}"


def row_of_file(name: str, content: str) -> list[str]:
    """What a file becomes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
        try:
            found = data.load(path)
            return [f"`{name}`", f"{len(found)} examples, {form_of(found)}", told(found)]
        except ValueError as error:
            return [f"`{name}`", refusal(error, folder), ""]


def row_of_labels(name: str, labels: list) -> list[str]:
    """What labels of a kind become."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_text("".join(json.dumps({"text": "a", "label": label}) + "\n" for label in labels))
        shown = f"`{json.dumps(labels)}`"
        try:
            found = data.load(path)
        except ValueError as error:
            return [name, shown, refusal(error, folder), ""]
        column = understood(found)["labels"]
        values = np.asarray(found.columns["labels"])
        return [name, shown, f"{column.role}, {column.type}", f"{values.dtype} `{values.tolist()}`"]


def tokenizer(template: str) -> PreTrainedTokenizerFast:
    """Characters and a few special tokens, with a chat template."""
    special = ["<|end|>", "<|user|>", "<|assistant|>"]
    letters = [chr(i) for i in range(32, 127)]
    built = tokenizers.Tokenizer(tokenizers.models.BPE({t: i for i, t in enumerate([*special, *letters])}, []))
    built.add_special_tokens(special)
    built.decoder = tokenizers.decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=built, eos_token="<|end|>", chat_template=template)


def row_of_template(name: str, template: str) -> list[str]:
    """What of a conversation is learned under a template."""
    made = tokenizer(template)
    whole = render(made, DIALOGUE)
    try:
        (example,) = data.next_tokens(data.Dataset({"messages": [DIALOGUE]}), made, length=999)
    except ValueError as error:
        return [name, f"`{whole}`", refusal(error)]
    learned, runs, last = example["weights"] > 0, [], False
    for own, label in zip(learned, example["labels"], strict=True):
        if own and not last:
            runs.append([])
        if own:
            runs[-1].append(int(label))
        last = own
    return [name, f"`{whole}`", ", ".join(f"`{made.decode(run)}`" for run in runs)]


def row_of_head(head: str, labels: str) -> list[str]:
    """The loss and the metrics of a head for labels."""
    kind, outputs = HEADS[head]
    model = models.with_head(models.tiny_encoder(jax.random.key(0)), kind, jax.random.key(1), outputs)
    batch = {"input_ids": np.ones((2, 4), np.int32), "labels": TARGETS[labels]}
    try:
        target = target_of(model, batch)
    except ValueError as error:
        return [head, labels, refusal(error), ""]
    return [head, labels, f"{target}: `{LOSSES[target].__name__}`", ", ".join(default_metrics(batch, target))]


def tables() -> str:
    """All tables, with their headings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = [
            ("Files", ["file", "becomes", "columns"], [row_of_file(*one) for one in FILES.items()]),
            ("Labels", ["labels", "in the file", "become", "values"], [row_of_labels(*one) for one in LABELS.items()]),
            ("Chat templates", ["template", "whole", "learned"], [row_of_template(*one) for one in TEMPLATES.items()]),
            (
                "Heads and labels",
                ["head", "labels", "loss", "metrics"],
                [row_of_head(head, labels) for head in HEADS for labels in TARGETS],
            ),
        ]
    return "\n\n".join(f"## {name}\n\n{marks.table(columns, rows)}" for name, columns, rows in parts)


if __name__ == "__main__":
    marks.write(PAGE, tables())
