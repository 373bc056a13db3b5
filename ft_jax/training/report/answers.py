"""What a policy answered before and after training, in the report."""

from pathlib import Path
from typing import Any

from ft_jax.outside import escaped, one_line, read_json

FILE = "answers.json"


def answers_section(folder: Path) -> dict[str, Any]:
    """The phases in which the policy was asked, and each prompt with what it said in them; empty where it wasn't.

    Raises:
      ValueError: a file that does not hold answers.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return {"answer_phases": [], "answers": []}
    try:
        told = read_json(path)
        phases = [phase for phase in ("before", "after") if phase in told]
        rows = []
        for name in told[phases[0]]:
            for at, first in enumerate(told[phases[0]][name]):
                said = [told[phase][name][at] for phase in phases]
                rows.append({"prompt": escaped(first["prompt"]), "said": [_shown(one) for one in said]})
        return {"answer_phases": phases, "answers": rows}
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not hold answers ({one_line(error)}); remove it") from None


def _shown(one) -> dict[str, str]:
    reward = one.get("reward")
    return {"answer": escaped(one["answer"]), "reward": "" if reward is None else f"{reward:.3g}"}
