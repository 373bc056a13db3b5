"""``ft-jax merge``: several checkpoints or LoRA adapters in one."""

import argparse
import contextlib
import dataclasses
import inspect
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ft_jax.cli.entry import Parser, RunFailed, place
from ft_jax.cli.text import columns

GREEDY = "greedy"


def command(words: Sequence[str]) -> int:
    """Merges, and prints how far the models are from what came of them."""
    from ft_jax.ensemble import merging

    parser = _parser(merging.RULES)
    given = vars(parser.parse_args(words))
    name, out, overwrite, as_json = (given.pop(one) for one in ("rule", "out", "overwrite", "json"))
    options = {key.removeprefix("rule_"): given.pop(key) for key in list(given) if key.startswith("rule_")}
    options = {key: value for key, value in options.items() if value is not None}
    merge = _merger(given)
    score = given.pop("score")
    if name == GREEDY:
        if score is None:
            raise ValueError("a greedy soup needs --score, a command that prints a number for a folder, more is better")
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            rule, given["models"] = merging.uniform(), _greedy(merge, given, score)
    else:
        rule = _rule(merging.RULES, name, options)
    merged = merge(rule, given.pop("models"), out, overwrite=overwrite, **given)
    if as_json:
        print(json.dumps({**dataclasses.asdict(merged), "folder": str(merged.folder)}, ensure_ascii=False))
    else:
        print(_described(merged))
    return 0


def _parser(rules: Mapping[str, Callable]) -> Parser:
    parser = Parser(
        prog="ft-jax merge",
        description="Merge checkpoints of one architecture, or LoRA adapters of one base, into a folder that "
        "transformers or peft loads.",
        epilog=columns([("RULE", "what it does"), *((name, _first_line(rule)) for name, rule in rules.items()),
                        (GREEDY, "The mean of the models that keep --score from getting worse.")]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("rule", choices=[*rules, GREEDY], metavar="RULE", help="one of those below")
    parser.add_argument(
        "models", nargs="+", metavar="model", help="folders, hf://… or pkg://…; all models or all adapters"
    )
    parser.add_argument("--out", required=True, type=place, help="the folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it is there")
    parser.add_argument("--json", action="store_true", help="print what came of it as one JSON object")
    parser.add_argument("--base", help="the model that they were trained from; of adapters, what to call it")
    parser.add_argument("--weights", nargs="+", type=float, help="of each model; 1 by default")
    parser.add_argument("--fishers", nargs="+", help="folders with each model's Fisher information, for fisher")
    parser.add_argument("--average", nargs="+", default=(), metavar="PREFIX", help="tensors to average, such as a head")
    parser.add_argument("--rank", type=int, help="of merged adapters; the sum of the ranks by default, which is exact")
    parser.add_argument("--dtype", help="of the stored numbers, such as bfloat16")
    parser.add_argument("--score", metavar="COMMAND", help="for greedy: run on a folder, put in place of {}; its last "
                        "printed word is the score")  # fmt: skip
    options = parser.add_argument_group("options of the rules")
    for option, takers in _options(rules).items():
        kind = next(iter(takers.values()))
        options.add_argument(
            f"--{option.replace('_', '-')}",
            dest=f"rule_{option}",
            type=_flag if kind is bool else kind,
            metavar="yes|no" if kind is bool else option.upper(),
            help=f"of {', '.join(takers)}",
        )
    return parser


def _first_line(rule: Callable) -> str:
    return (rule.__doc__ or "").strip().splitlines()[0]


def _flag(word: str) -> bool:
    if word not in ("yes", "no"):
        raise argparse.ArgumentTypeError(f"{word!r} is neither yes nor no")
    return word == "yes"


def _options(rules: Mapping[str, Callable]) -> dict[str, dict[str, type]]:
    """``{option: {rule: type}}`` from the constructors' signatures."""
    found: dict[str, dict[str, type]] = {}
    for name, rule in rules.items():
        for option, parameter in inspect.signature(rule).parameters.items():
            kind = parameter.annotation
            found.setdefault(option, {})[name] = kind if isinstance(kind, type) else float
    return found


def _rule(rules: Mapping[str, Callable], name: str, options: Mapping[str, Any]):
    takes = inspect.signature(rules[name]).parameters
    for option in options:
        if option not in takes:
            has = f"it has {', '.join(f'--{x}'.replace('_', '-') for x in takes)}" if takes else "it has none"
            raise ValueError(f"{name} has no option --{option.replace('_', '-')}; {has}")
    return rules[name](**options)


def _merger(given: dict[str, Any]) -> Callable:
    """What merges folders like these, once options of the other kind are out of `given`."""
    from ft_jax import assets
    from ft_jax.ensemble import merging

    adapters = [Path(assets.resolve(model), "adapter_config.json").is_file() for model in given["models"]]
    if any(adapters) and not all(adapters):
        other = given["models"][adapters.index(False)]
        raise ValueError(f"{other} is no adapter and others are; merge adapters with adapters, and models with models")
    foreign = ("fishers", "average", "dtype") if all(adapters) else ("rank",)
    for option in foreign:
        if given.pop(option):
            kind = "whole models" if all(adapters) else "adapters"
            raise ValueError(f"--{option} is for {kind}, and {given['models'][0]} is none of them; leave it out")
    return merging.merge_adapters if all(adapters) else merging.merge_folders


def _greedy(merge: Callable, given: Mapping[str, Any], score: str) -> list[str]:
    """The models of the greedy soup; mixtures are written to a folder that is removed again."""
    from ft_jax.ensemble import merging

    models, rest = given["models"], {key: value for key, value in given.items() if key != "models"}
    if rest.pop("weights") is not None:
        raise ValueError("a greedy soup takes the plain mean of its models; leave --weights out")
    rest.pop("base")

    def scored(kept):
        if len(kept) == 1:
            return _score(score, models[kept[0]])
        with tempfile.TemporaryDirectory() as parent:
            return _score(score, merge(merging.uniform(), [models[k] for k in kept], f"{parent}/soup", **rest).folder)

    soup = merging.greedy_soup(len(models), scored)
    rows = [(str(models[k]), f"{alone:.4f}", "kept" if k in soup.kept else "") for k, alone in enumerate(soup.alone)]
    print(columns([("model", "alone", ""), *rows, ("soup", f"{soup.score:.4f}", f"of {len(soup.kept)}")]) + "\n")
    return [models[k] for k in soup.kept]


def _score(command: str, folder) -> float:
    words = [word.replace("{}", str(folder)) for word in shlex.split(command)]
    if words == shlex.split(command):
        raise ValueError(f"--score is {command!r}; write {{}} where the folder goes")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    said = done.stdout.split()
    try:
        if done.returncode == 0:
            return float(said[-1])
    except (IndexError, ValueError):
        pass
    last = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
    raise RunFailed(f"--score on {folder} ended with {done.returncode} and no number; it said: {last}")


def _described(merged) -> str:
    """The account of a merge as text."""
    from ft_jax.ensemble import merging

    options = ", ".join(f"{name} {value}" for name, value in merged.options.items()) or "no options"
    what = "modules" if merged.ranks else "tensors"
    lines = [
        f"{merged.rule} ({options}): {_first_line(merging.RULES[merged.rule])}",
        f"{len(merged.models)} models, {merged.tensors} {what}, {merged.parameters:,} numbers",
        "",
    ]
    head = (
        "model",
        "weight",
        "distance",
        *(f"cos {k + 1}" for k in range(len(merged.models) if merged.cosines else 0)),
    )
    rows = [
        (model, f"{weight:g}", f"{apart:.4f}", *(f"{x:.3f}" for x in (merged.cosines[k] if merged.cosines else ())))
        for k, (model, weight, apart) in enumerate(zip(merged.models, merged.weights, merged.distances, strict=True))
    ]
    lines += [columns([head, *rows])]
    if merged.conflicts is not None:
        lines += ["", f"signs of task vectors differ at {merged.conflicts:.1%} of the numbers"]
    if merged.ranks is not None:
        low, high = merged.ranks
        rank = f"{low}" if low == high else f"{low} to {high}"
        lines += [f"rank {rank}, which had no room for {merged.lost:.2%} of the update's norm"]
    return "\n".join([*lines, str(merged.folder)])
