"""Kills, malformed inputs and flipped bits by the hundreds; each count is a line of docs/results/torture.jsonl."""

import argparse
import collections
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
from faults.fuzz import fuzzed, kept_as, kept_wrong
from faults.without import tried

import ft_jax

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "torture.jsonl"


def counted() -> dict[str, Any]:
    """What the lines add up to: kills by kind, inputs by outcome, flips noticed, and all that was wrong."""
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.is_file() else []
    kills: collections.Counter = collections.Counter()
    sums = collections.Counter(dict.fromkeys(("writing", "runs", "inputs", "refused", "flips", "noticed"), 0))
    wrong: list[str] = []
    for line in lines:
        wrong += line["wrong"]
        if line["what"] == "kills":
            kills[line["kind"]] += line["kills"]
            sums["writing"] += line["writing"]
            sums["runs"] += 1
        sums.update({name: line[name] for name in ("inputs", "refused", "flips", "noticed") if name in line})
    return {"kills": dict(kills), **sums, "wrong": wrong}


def sentence(found: dict[str, Any]) -> str:
    """The counts as SECURITY.md says them."""
    kinds = ", ".join(f"{count} of {kind} runs" for kind, count in sorted(found["kills"].items()))
    lost = f"{len(found['wrong'])} of them wrong" if found["wrong"] else "nothing was lost, silent or slow"
    return (
        f"{sum(found['kills'].values())} kills ({kinds}; {found['writing']} of them while a checkpoint was being "
        f"written), {found['inputs']:,} malformed inputs ({found['refused']:,} refused, the others read as what they "
        f"say) and {found['flips']:,} flipped bits ({found['noticed']:,} noticed): {lost}"
    )


def _append(what: str, **line: Any) -> None:
    about = {"version": ft_jax.__version__, "jax": jax.__version__, "time": time.strftime("%Y-%m-%d")}
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"what": what, **line, **about}) + "\n")
    print(json.dumps({"what": what, **line}), flush=True)


def _kill(most: int, seed: int, until: float) -> None:
    done = sum(counted()["kills"].values())
    left = until - time.monotonic()
    if done >= most or left <= 0:
        return
    # A process of its own, for one that has computed anything can't be forked.
    words = ["--kills", str(most - done), "--seconds", str(left), "--seed", str(seed + done)]
    with subprocess.Popen([sys.executable, "-m", "faults.kills", *words], stdout=subprocess.PIPE, text=True) as killing:
        for line in killing.stdout:
            told = json.loads(line)
            lost = told.pop("lost")
            _append("kills", **told, seed=seed + done, wrong=[f"{told['kind']}: {lost}"] if lost else [])
    if killing.returncode:
        raise SystemExit(f"the killing ended with status {killing.returncode}")


def _fuzz(most: int, seed: int, until: float) -> None:
    done = counted().get("inputs", 0)
    if done >= most:
        return
    outcomes: collections.Counter = collections.Counter()
    wrong = []
    for name, number, content, found in fuzzed(most - done, seed + done):
        outcomes["inputs"] += 1
        outcomes[found if found in ("refused", "read") else "wrong"] += 1
        if found not in ("refused", "read"):
            wrong.append(f"{name}: {found}")
            kept_wrong(kept_as(name, seed + done, number), content)
        if time.monotonic() > until:
            break
    _append("inputs", **outcomes, seed=seed + done, wrong=wrong)


def _flip(most: int, seed: int) -> None:
    from faults.flips import flips

    done = counted().get("flips", 0)
    if done < most:
        noticed, silent = flips(most - done, seed + done)
        _append("flips", flips=most - done, noticed=noticed, seed=seed + done, wrong=silent)


def main() -> int:
    """Goes on from the lines there are until there are enough, and fails where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=120)
    parser.add_argument("--inputs", type=int, default=6000)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="another one is another draw of everything")
    parser.add_argument("--seconds", type=float, default=7200.0, help="after which no further one begins")
    parser.add_argument("--anew", action="store_true", help="forget the lines there are")
    parser.add_argument("--without", action="store_true", help="take out each protection, in place of all else")
    options = parser.parse_args()
    if options.without:
        return tried()
    until = time.monotonic() + options.seconds
    if options.anew:
        RESULTS.unlink(missing_ok=True)
    _kill(options.kills, options.seed, until)
    _fuzz(options.inputs, options.seed, until)
    _flip(options.flips, options.seed)
    found = counted()
    print(sentence(found))
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
