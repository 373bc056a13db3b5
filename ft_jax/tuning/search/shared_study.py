"""A study that many workers share: every trial is accounted for, whoever dies."""

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna

from ft_jax.tuning.search.choosing import Search, suggest, tell
from ft_jax.tuning.search.spaces import Plain, Space

STATES = optuna.trial.TrialState
RETRIES = 2
"""How often a trial whose worker died is taken up again."""

BEAT, GRACE = 15.0, 120.0
"""Seconds between signs of life of a worker, and without one until it is taken for dead (on this computer at once)."""


def open_storage(address: str | Path) -> optuna.storages.BaseStorage:
    """Where a study is kept: a journal file, or a database by URL.

    Args:
      address: ``runs/x/journal.log``, or ``sqlite:///file.db``, ``postgresql://user@host/database``, ….

    Raises:
      ValueError: a database whose driver isn't installed, or that doesn't answer.
    """
    if "://" not in str(address):
        Path(address).parent.mkdir(parents=True, exist_ok=True)
        backend = optuna.storages.journal.JournalFileBackend(
            str(address), lock_obj=optuna.storages.journal.JournalFileOpenLock(str(address))
        )
        return optuna.storages.JournalStorage(backend)
    try:
        return optuna.storages.RDBStorage(str(address))
    except ImportError as error:
        raise ValueError(f"storage {address} needs a driver that isn't installed: {error}; install it") from error
    except Exception as error:
        first = " ".join(str(error).split())[:200]
        raise ValueError(f"storage {address} can't be opened: {first}; check the address") from error


@dataclasses.dataclass(frozen=True)
class Worker:
    """Who runs a trial: told to the storage, so that others can see whether it still lives.

    Attributes:
      host, process: where.
      index: among the workers of a sweep; its seed differs by it.
    """

    host: str = dataclasses.field(default_factory=socket.gethostname)
    process: int = dataclasses.field(default_factory=os.getpid)
    index: int = 0

    def __str__(self):
        return f"{self.host}:{self.process}"


class SharedStudy:
    """A study in a storage, with a fixed number of slots that are each run to an end exactly once.

    A slot is a trial to be run. It waits, is run by one worker, and ends as complete, pruned or failed; where its
    worker dies it goes to another one as a further trial of the same slot, up to `RETRIES` times.

    Attributes:
      study: optuna's.
      space: axes by name.
      search: how combinations are picked.
      worker: this process.
    """

    def __init__(self, study: optuna.Study, space: Space, search: Search, worker: Worker):
        self.study, self.space, self.search, self.worker = study, space, search, worker

    @classmethod
    def open(
        cls,
        address: str | Path,
        name: str,
        space: Space,
        search: Search,
        directions: Sequence[str],
        identity: Mapping[str, Any],
        worker: Worker | None = None,
    ) -> "SharedStudy":
        """Opens or makes it.

        Args:
          address: see `open_storage`.
          name: of the study in the storage.
          space, search: see the class.
          directions: ``"maximize"`` or ``"minimize"`` for each objective.
          identity: what makes this sweep this one, as JSON; one that differs is refused.
          worker: this process.

        Raises:
          ValueError: the storage holds another sweep under the name.
        """
        search.check(space, len(directions))
        worker = worker or Worker()
        study = optuna.create_study(
            storage=open_storage(address),
            study_name=name,
            load_if_exists=True,
            directions=list(directions) if name not in _names(address) else None,
            sampler=search.build_sampler(space, worker.index),
            pruner=search.build_pruner(),
        )
        told = json.dumps(identity, sort_keys=True)
        known = study.user_attrs.get("identity")
        if known is None:
            study.set_user_attr("identity", told)
        elif known != told:
            field, was, now = _difference(json.loads(known), json.loads(told))
            raise ValueError(
                f"storage {address} holds another sweep called {name!r}, whose {field} is {was!r:.60} and not "
                f"{now!r:.60}; choose another --out or --storage, or delete it"
            )
        return cls(study, space, search, worker)

    def plan(self, trials: int | None) -> int:
        """Adds the slots that are missing, those of dead workers included; how many there are in all."""
        self.retry_lost()
        slots = self.search.slots(self.space, trials)
        by_slot = self.by_slot()
        for index, fixed in enumerate(slots):
            if not any(_holds_slot(trial) for trial in by_slot.get(index, ())):
                lost = [trial.number for trial in by_slot.get(index, ())]
                self._enqueue(index, by_slot[index][-1].params if lost else fixed, lost)
        return len(slots)

    def by_slot(self) -> dict[int, list[optuna.trial.FrozenTrial]]:
        """All trials of each slot, in order."""
        found: dict[int, list] = {}
        for trial in self.study.get_trials(deepcopy=False):
            if "slot" in trial.user_attrs:
                found.setdefault(trial.user_attrs["slot"], []).append(trial)
        return found

    def _enqueue(self, slot: int, fixed: Mapping[str, Plain], lost: Sequence[int]) -> None:
        self.study.enqueue_trial(dict(fixed), user_attrs={"slot": slot, "lost": list(lost)})

    def ask(self, most: int = 1) -> list[tuple[optuna.Trial, dict[str, Any]]]:
        """Up to so many trials that wait, now this worker's; none where none waits."""
        asked = []
        while len(asked) < most and self.study.get_trials(deepcopy=False, states=(STATES.WAITING,)):
            trial = self.study.ask()
            if "slot" not in trial.user_attrs:
                # Another worker took the last one in between, so optuna made one more than was planned.
                trial.set_user_attr("why", "surplus")
                self.study.tell(trial, state=STATES.FAIL)
                break
            trial.set_user_attr("worker", str(self.worker))
            trial.set_user_attr("beat", time.time())
            asked.append((trial, suggest(trial, self.space)))
        return asked

    def tell(self, trial: optuna.Trial, values: Sequence[float]) -> bool:
        """A trial's result; False where it isn't finite, or where the trial was taken for lost in the meantime."""
        with contextlib.suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):
            return tell(self.study, trial, values)
        return False

    def fail(self, trial: optuna.Trial, why: str) -> None:
        """A trial that can't be had, for good."""
        self._end(trial, why, STATES.FAIL)

    def prune(self, trial: optuna.Trial, why: str) -> None:
        """A trial given up early."""
        self._end(trial, why, STATES.PRUNED)

    def _end(self, trial, why, state):
        with contextlib.suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):
            trial.set_user_attr("why", why)
            self.study.tell(trial, state=state)

    def give_back(self, trial: optuna.Trial) -> None:
        """A trial of this worker that it won't run: it waits again, and doesn't count as lost."""
        held = self.study.trials[trial.number]
        with contextlib.suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):
            self.study.tell(trial, state=STATES.FAIL)
            self._enqueue(held.user_attrs["slot"], held.params, held.user_attrs["lost"])

    @contextlib.contextmanager
    def alive(self, trials: Sequence[optuna.Trial]) -> Iterator[None]:
        """Gives signs of life for trials while they run."""
        done = threading.Event()

        def beat():
            while not done.wait(BEAT):
                for trial in trials:
                    with contextlib.suppress(Exception):
                        trial.set_user_attr("beat", time.time())

        thread = threading.Thread(target=beat, name="beat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def retry_lost(self) -> list[int]:
        """Numbers of the trials whose worker died; each is failed by whoever sees it first, who adds a new one."""
        found = []
        for trial in self.study.get_trials(deepcopy=False, states=(STATES.RUNNING,)):
            if self._lives(trial):
                continue
            lost = [*trial.user_attrs.get("lost", []), trial.number]
            try:
                if len(lost) > RETRIES:
                    held = optuna.trial.Trial(self.study, trial._trial_id)
                    held.set_user_attr("why", f"{len(lost)} workers died while running it")
                self.study.tell(trial.number, state=STATES.FAIL)
            except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
                continue  # another worker was first
            found.append(trial.number)
            if len(lost) <= RETRIES and "slot" in trial.user_attrs:
                self._enqueue(trial.user_attrs["slot"], trial.params, lost)
        return found

    def _lives(self, trial) -> bool:
        worker, beat = trial.user_attrs.get("worker"), trial.user_attrs.get("beat")
        if worker is None:
            return (time.time() - trial.datetime_start.timestamp()) < GRACE
        host, _, process = worker.rpartition(":")
        if host == self.worker.host:
            return _runs(int(process))
        return time.time() - beat < GRACE

    def running(self) -> bool:
        """Whether a trial is still being run by somebody."""
        return bool(self.study.get_trials(deepcopy=False, states=(STATES.RUNNING,)))

    def account(self, slots: int) -> dict[str, int]:
        """How the slots ended, by state; they sum to `slots`. Retries are counted beside them."""
        by_slot = self.by_slot()
        found = dict.fromkeys(("complete", "pruned", "failed", "running", "waiting", "missing"), 0)
        for slot in range(slots):
            states = [trial.state for trial in by_slot.get(slot, ())]
            for name, state in _NAMED.items():
                if state in states:
                    found[name] += 1
                    break
            else:
                found["failed" if states else "missing"] += 1
        found["retried"] = sum(max(len(trials) - 1, 0) for trials in by_slot.values())
        return found


_NAMED = {
    "complete": STATES.COMPLETE,
    "pruned": STATES.PRUNED,
    "running": STATES.RUNNING,
    "waiting": STATES.WAITING,
}


def _holds_slot(trial) -> bool:
    """Whether a slot needs no further trial: this one ended it, or is about to."""
    return trial.state != STATES.FAIL or "why" in trial.user_attrs


def _runs(process: int) -> bool:
    """Whether a process of this computer lives."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    status = Path(f"/proc/{process}/stat")
    with contextlib.suppress(OSError):
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def _names(address) -> list[str]:
    return optuna.get_all_study_names(open_storage(address))


def _difference(old, new, path="") -> tuple[str, Any, Any]:
    """The path and both values of the first thing in which two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
    return path, old, new
