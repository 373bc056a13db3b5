"""``ft-jax evaluate``: a run's model measured on a labelled data set."""

import json
from collections.abc import Sequence

from ft_jax.cli.entry import Parser
from ft_jax.cli.text import columns


def command(words: Sequence[str]) -> int:
    """Prints loss and metrics."""
    parser = Parser(prog="ft-jax evaluate", description="Loss and metrics of a run's model on a labelled data set.")
    parser.add_argument("run", help="the folder of a finished run")
    parser.add_argument("--data", required=True, metavar="ADDRESS", help="a file or another address of a data set")
    parser.add_argument("--split", help="train, validation or test of it; all of it by default")
    parser.add_argument("--base", metavar="ADDRESS", help="where the model that was tuned is, if it moved")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args(words)

    from ft_jax import data
    from ft_jax.training.serving import load_run, measured

    kept = load_run(options.run, options.base)
    if hasattr(kept.model.config, "image_token"):
        raise ValueError(f"the model of {options.run} writes to images, which no label measures; its report shows what")
    if hasattr(kept.model.config, "encoders") or hasattr(kept.model.config, "text"):
        from ft_jax.training.serving.several import measured_table

        count, scores = measured_table(kept, options.data)
    else:
        examples = data.load(options.data, options.split)
        count, scores = len(examples), measured(kept, examples)
    if options.json:
        print(json.dumps({"run": options.run, "data": options.data, "examples": count, **scores}))
    else:
        rows = [(name, f"{value:.6g}") for name, value in scores.items()]
        print(columns([f"{options.run} on {options.data}, {count:,} examples", *rows]))
    return 0
