import html.parser
import json
import math
import random
import re

import pytest

from ft_jax.training.report import write_report
from ft_jax.training.report.charts import Mark, Series, line_chart
from ft_jax.training.report.data import read_run, scores

EXPERIMENT = {
    "name": "transfer/sentiment",
    "doc": "MiniLM learns the sentiment of movie reviews by LoRA and a joint loss.",
    "command": ["ft-jax", "run", "transfer/sentiment", "--seed", "3"],
    "seed": 3,
    "method": [
        {"name": "adaptive.uncertainty", "options": {"terms": ["task", "backbone"], "rate": 1.0}},
        {"name": "transfer.joint", "options": {"weight": 1.0}},
        {"name": "transfer.lora", "options": {"rank": 8, "alpha": 16.0, "name": "adapter"}},
        {"name": "adaptive.plateau", "options": {"metric": "accuracy", "mode": "max"}},
    ],
    "optimizer": {"name": "adamw", "learning_rate": 0.002, "weight_decay": 0.01, "max_norm": 1.0, "schedule": None},
    "parallelism": {"kind": "single"},
    "versions": {"ft_jax": "0.1.0", "jax": "0.10.2", "python": "3.11.2"},
    "devices": "1 × cpu",
}
LEAVES = {
    f"model/layers/{layer}/attention/{part}/kernel/transfer.lora/{factor}": 384 * 8
    for layer in range(6)
    for part in ("query", "key", "value", "output")
    for factor in ("a", "b")
} | {"model/head/kernel": 768, "model/head/bias": 2, "adaptive.uncertainty/task": 1, "adaptive.uncertainty/backbone": 1}
SUMMARY = {
    "status": "finished",
    "steps": 600,
    "seconds": 171.4,
    "composition": ["adaptive.uncertainty", "transfer.joint", "adapter", "adaptive.plateau"],
    "scores": {
        "before": {"movie": {"loss": 0.702, "accuracy": 0.508}, "tweets": {"loss": 0.71, "accuracy": 0.497}},
        "head_only": {"movie": {"loss": 0.561, "accuracy": 0.724}, "tweets": {"loss": 0.6, "accuracy": 0.701}},
        "after": {"movie": {"loss": 0.438, "accuracy": 0.81749}, "tweets": {"loss": 0.62, "accuracy": 0.48}},
    },
    "parameters": {"trainable": sum(LEAVES.values()), "total": 22_713_728, "leaves": LEAVES},
    "throughput": {"examples_per_second": 212.4, "tokens_per_second": 6100.0},
    "examples": [
        {"text": "A film of rare warmth.", "label": "positive", "prediction": "positive", "probability": 0.974},
        {
            "text": "Two hours <b>I</b> won't get back.",
            "label": "negative",
            "prediction": "positive",
            "probability": 0.51,
        },
        {"text": "It exists.", "label": None, "prediction": "negative", "probability": None},
    ],
}


def make_run(folder, experiment=EXPERIMENT, summary=SUMMARY, steps=600):
    """A run folder with the numbers of a plausible run."""
    draw = random.Random(0)
    folder.mkdir(parents=True)
    lines = []
    for step in range(1, steps + 1):
        task = 0.42 + 0.3 * math.exp(-step / 120) + draw.gauss(0, 0.05)
        backbone = 0.9 + 1.2 * math.exp(-step / 200) + draw.gauss(0, 0.08)
        rate = 0.002 * min(1, step / 60) * (0.5 if step > 450 else 1)
        lines.append(
            {"kind": "train", "step": step, "loss": task + backbone, "task": task, "backbone": backbone,
             "gradient_norm": 1 + draw.random(), "learning_rate": rate, "examples_per_second": 200 + 20 * draw.random()}
        )  # fmt: skip
        if step % 75 == 0:
            for name, top in (("movie", 0.82), ("tweets", 0.70)):
                accuracy = top - 0.3 * math.exp(-step / 100) + draw.gauss(0, 0.006)
                lines.append({"kind": "evaluation", "step": step, "set": name, "accuracy": accuracy, "loss": task})
    lines.append(
        {
            "kind": "event",
            "step": 450,
            "cause": "adaptive.plateau at evaluation",
            "number": "optimizer.learning_rate",
            "message": "optimizer.learning_rate 0.002 → 0.001",
            "old": 0.002,
            "new": 0.001,
        }
    )
    (folder / "experiment.json").write_text(json.dumps(experiment))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


class Reader(html.parser.HTMLParser):
    """Checks that tags close in order and collects the visible words and every address."""

    def __init__(self, page):
        super().__init__()
        self.open, self.words, self.addresses = [], [], []
        self.feed(page)
        assert not self.open, f"{self.open} never closed"

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "br", "wbr", "line", "circle", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"{tag} closed out of order"

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.words))


def report(tmp_path, *folders):
    out = write_report(folders, tmp_path / "report.html")
    return Reader(out.read_text(encoding="utf-8")), out.read_text(encoding="utf-8")


def test_the_outcome_comes_before_everything_else(tmp_path):
    page, _ = report(tmp_path, make_run(tmp_path / "run"))
    text = page.text
    places = [text.index(word) for word in ("Outcome", "0.508", "0.724", "0.817", "What happened", "composition")]
    assert places == sorted(places)
    assert "accuracy on movie" in text and "+0.309 better" in text and "−0.017 worse" in text
    assert "before training" in text and "head only" in text and "after training" in text


def test_the_page_needs_no_other_file(tmp_path):
    page, source = report(tmp_path, make_run(tmp_path / "run"))
    assert page.addresses == []
    assert "<script" not in source and "@import" not in source and "url(" not in source


def test_words_of_the_run_cannot_become_markup(tmp_path):
    page, source = report(tmp_path, make_run(tmp_path / "run"))
    assert "<b>I</b>" not in source and "Two hours <b>I</b> won't get back." in page.text


def test_a_name_that_deceives_is_shown_as_what_it_is(tmp_path):
    run = make_run(tmp_path / "run")
    told = json.loads((run / "experiment.json").read_text())
    (run / "experiment.json").write_text(json.dumps({**told, "name": "good\u202edab"}))
    source = write_report([run], tmp_path / "report.html").read_text()
    assert "\u202e" not in source and "good\\u202edab" in source


def test_the_composition_nests_and_names_settings_of_renamed_methods(tmp_path):
    page, source = report(tmp_path, make_run(tmp_path / "run"))
    names = ["adaptive.uncertainty", "transfer.joint", "adapter", "adaptive.plateau", "loss and optimizer"]
    places = [source.index(f'<div class="name">{name}</div>') for name in names]
    assert places == sorted(places)
    between = source[places[0] : places[-1]]
    assert between.count("<div") - between.count("</div") == len(names) - 1, "each box holds the next"
    assert "rank = 8" in page.text and "learning_rate = 0.002" in page.text
    assert "Kendall, Gal and Cipolla 2018" in page.text


def test_what_learned_is_counted_by_pattern(tmp_path):
    page, _ = report(tmp_path, make_run(tmp_path / "run"))
    assert "model/layers/*/attention/query/kernel/transfer.lora/a" in page.text
    assert f"{sum(LEAVES.values()):,} of 22,713,728 parameters learned (0.653 %)" in page.text
    assert "6 18,432 12.4 %" in page.text


def test_the_command_and_the_causes_of_changes_are_shown(tmp_path):
    page, source = report(tmp_path, make_run(tmp_path / "run"))
    assert "ft-jax run transfer/sentiment --seed 3" in page.text
    assert "optimizer.learning_rate 0.002 → 0.001 (adaptive.plateau at evaluation)" in page.text
    assert source.count('class="mark"') == source.count('class="chart"') > 4
    assert "2 min 51 s" in page.text and "tokens per second" in page.text and "jax 0.10.2" in page.text


def test_several_runs_share_one_report_with_a_table_of_outcomes(tmp_path):
    second = {**EXPERIMENT, "name": "rl/dpo"}
    page, source = report(
        tmp_path,
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b", second, {**SUMMARY, "status": "failed", "scores": {}}),
    )
    assert page.addresses[:2] == ["#run-1", "#run-2"]
    assert source.count("<article") == 2 and source.count("<h1>") == 1
    assert "failed, no scores" in page.text


def test_a_killed_run_is_shown_as_far_as_it_is(tmp_path):
    folder = make_run(tmp_path / "run", summary=None)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "step": 60')
    page, _ = report(tmp_path, folder)
    assert "still running, or stopped before its end" in page.text and "600 steps" in page.text
    assert len(read_run(folder).train) == 600


def test_a_population_shows_its_spread(tmp_path):
    summary = {
        **SUMMARY,
        "scores": {"before": {"movie": {"accuracy": [0.5, 0.5]}}, "after": {"movie": {"accuracy": [0.6, 0.9]}}},
    }
    folder = make_run(tmp_path / "run", summary=summary)
    best = scores(read_run(folder))[0]
    assert best.metric == "accuracy, best of 2" and best.by_phase == {"before": 0.5, "after": 0.9}
    chart = line_chart("Loss", [Series("loss", [(1, [0.5, 0.7]), (2, [0.2, 0.8])])])
    assert 'class="s0 band"' in chart


def test_a_term_that_falls_is_better_and_one_that_is_the_loss_is_not_repeated(tmp_path):
    both = {
        "before": {"movie": {"loss": 1.5, "task": 0.5, "backbone": 1.0}},
        "after": {"movie": {"loss": 1.2, "task": 0.6, "backbone": 0.6}},
    }
    folder = make_run(tmp_path / "run", summary={**SUMMARY, "scores": both})
    assert [(score.metric, score.verdict) for score in scores(read_run(folder))] == [
        ("loss", "better"),
        ("task", "worse"),
        ("backbone", "better"),
    ]
    alone = {"before": {"movie": {"task": 0.5, "loss": 0.5}}, "after": {"movie": {"task": 0.4, "loss": 0.4}}}
    folder = make_run(tmp_path / "other", summary={**SUMMARY, "scores": alone})
    assert [score.metric for score in scores(read_run(folder))] == ["loss"]


def test_a_stream_of_tasks_shows_the_scores_after_each(tmp_path):
    value = lambda accuracy: {"movie": {"accuracy": accuracy}, "tweets": {"accuracy": accuracy / 2}}  # noqa: E731
    phases = {"before": value(0.5), "after movie": value(0.81), "after tweets": value(0.72), "after": value(0.72)}
    page, _ = report(tmp_path, make_run(tmp_path / "run", summary={**SUMMARY, "scores": phases}))
    place = 0
    for word in ("before training", "after movie", "after tweets", "after training"):
        place = page.text.index(word, place)
    assert "0.810" in page.text and "0.405" in page.text


def test_numbers_set_in_hyper_are_shown_where_they_belong(tmp_path):
    experiment = {**EXPERIMENT, "hyper": {"adapter.alpha": 32.0, "optimizer.learning_rate": 0.5}}
    page, source = report(tmp_path, make_run(tmp_path / "run", experiment))
    assert "alpha = 32 (set in hyper)" in page.text and "learning_rate = 0.5 (set in hyper)" in page.text
    assert source.index("alpha = 32 (set in hyper)") < source.index('<div class="name">adaptive.plateau')


def test_bad_folders_are_told_in_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder; give the folder of a run"):
        write_report([tmp_path / "nowhere"], tmp_path / "report.html")
    with pytest.raises(FileNotFoundError, match=r"has no experiment\.json"):
        write_report([tmp_path], tmp_path / "report.html")
    folder = make_run(tmp_path / "run")
    (folder / "summary.json").write_text("{")
    with pytest.raises(ValueError, match=r"summary\.json is not JSON"):
        write_report([folder], tmp_path / "report.html")
    with pytest.raises(ValueError, match="needs at least one run"):
        write_report([], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_chart_survives_what_training_throws_at_it():
    assert line_chart("Loss", [Series("loss", [(1, math.nan), (2, math.inf)])]) == ""
    flat = line_chart("Loss", [Series("loss", [(5, 0.0), (5, 0.0)])], [Mark(5, 1, 'a "quoted" <cause>')])
    assert "nan" not in flat and "<cause>" not in flat
    wide = line_chart("Loss", [Series("loss", [(step, 10.0**-step) for step in range(6)])])
    assert ">0.01<" in wide and ">1<" in wide, "four decades are drawn on a logarithmic axis"
    many = line_chart("Loss", [Series("loss", [(step, step % 7) for step in range(100_000)])], smooth=True)
    assert len(many) < 30_000
