"""What the demo adds to its run, without the training."""

import json

from experiments import demo
from ft_jax.training.report import data as report_data
from ft_jax.training.run_folder import read_sealed, write_sealed


def test_the_report_reads_a_summary_that_the_demo_added_to(tmp_path):
    after, head = ({"movies": {"accuracy": score}} for score in (0.8, 0.7))
    write_sealed(tmp_path / "experiment.json", {"name": "demo"})
    write_sealed(tmp_path / "summary.json", {"status": "finished", "scores": {"before": {}, "after": after}})
    (tmp_path / "metrics.jsonl").write_text("")
    said = [{"text": "a film", "prediction": "positive", "probability": 0.9}]
    for _ in range(2):  # A demo that is shown again adds to what it added.
        demo.keep(tmp_path / "summary.json", head, said)
    told = report_data.read_run(tmp_path).summary
    assert told["examples"] == said and told["status"] == "finished"
    assert list(told["scores"]) == ["before", "head_only", "after"] and told["scores"]["head_only"] == head
    # What was added outlives damage, as all of a summary does.
    (tmp_path / "summary.json").write_text(json.dumps({**told, "status": "other"}))
    assert read_sealed(tmp_path / "summary.json")["examples"] == said
