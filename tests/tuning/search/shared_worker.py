"""A worker of a shared study, as a process: ``shared_worker.py FOLDER INDEX [DIE_AT]``."""

import os
import signal
import sys
import time
from pathlib import Path

from ft_jax.tuning.search import Search, SharedStudy, Worker, parse_space

SPACE = parse_space(["x=-4.0..4.0", "kind=a,b"])
SEARCH = Search("tpe", seed=1, startup=3)


def opened(folder, index=0, space=SPACE, storage=None):
    identity = {"space": {name: repr(axis) for name, axis in space.items()}}
    return SharedStudy.open(
        storage or folder / "journal.log", "sweep", space, SEARCH, ["minimize"], identity, Worker(index=index)
    )


def value(at):
    return at["x"] ** 2 + (at["kind"] == "b")


def work(folder, index, die_at=None):
    """Runs what waits; kills its process in the middle of its trial number `die_at`."""
    study, count = opened(folder, index), 0
    while True:
        study.retry_lost()
        asked = study.ask()
        if not asked:
            return
        if count == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        [(trial, at)] = asked
        time.sleep(0.05)
        study.tell(trial, [value(at)])
        count += 1


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
