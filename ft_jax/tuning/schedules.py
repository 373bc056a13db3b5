"""What stops, starts and copies the trials of a population, as pure functions of arrays.

A schedule looks at the members' scores after an evaluation and says what each does next. Trials may be more than
members: those that wait, and those that pause, keep their states in a pool.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

Record = dict[str, jax.Array]


class Decision(NamedTuple):
    """What each member does next.

    Attributes:
      record: what the schedule remembers.
      trial: the trial that each member runs from now on ``[members]``, -1 where none is left for it.
      copied: the member whose state and numbers each takes over ``[members]``, itself where it keeps its own.
      explores: whether its numbers are perturbed ``[members]``.
    """

    record: Record
    trial: jax.Array
    copied: jax.Array
    explores: jax.Array


@runtime_checkable
class Schedule(Protocol):
    """Any frozen dataclass with these functions of arrays."""

    def start(self, members: int, trials: int) -> Record:
        """What is remembered before the first evaluation."""
        ...

    def decide(self, record: Record, trial: jax.Array, scores: jax.Array, key: jax.Array) -> Decision:
        """After an evaluation: `scores` of the members, more is better, NaN where one has diverged."""
        ...


def _stay(record: Record, trial: jax.Array) -> Decision:
    members = trial.shape[0]
    return Decision(record, trial, jnp.arange(members), jnp.zeros(members, bool))


def _descending(scores: jax.Array) -> jax.Array:
    """Each entry's rank down the first axis, 0 for the best, ties by place; NaN last."""
    order = jnp.argsort(jnp.where(jnp.isnan(scores), jnp.inf, -scores), axis=0, stable=True)
    return jnp.argsort(order, axis=0, stable=True)


@dataclasses.dataclass(frozen=True)
class Asha:
    """Asynchronous successive halving, algorithm 2 of Li et al. 2020, arXiv:1810.05934.

    A member that has reached its trial's rung records the score there and takes a new job: of the highest rung that
    has one, the best trial among the top ``⌊n / eta⌋`` of the ``n`` that reached it that was not promoted from it
    yet; else a trial that has not begun; else it has nothing left to do. A trial that isn't promoted pauses, and
    goes on from where it was when it is.

    Attributes:
      rungs: evaluations after which trials are compared, ascending; the last is a whole trial. See
        `ft_jax.tuning.rungs`.
      eta: of how many one goes on.

    Raises:
      ValueError: rungs that don't ascend, or an eta below 2.
    """

    rungs: tuple[int, ...] = (1, 3, 9)
    eta: int = 3

    def __post_init__(self):
        ascending = all(a < b for a, b in zip(self.rungs, self.rungs[1:], strict=False))
        if not self.rungs or self.rungs[0] < 1 or not ascending or self.eta < 2:
            raise ValueError(f"rungs {self.rungs} must ascend from at least 1, and eta {self.eta} be at least 2")

    def start(self, members: int, trials: int) -> Record:
        """Nothing is scored; the first trials have begun."""
        return {
            "age": jnp.zeros(trials, jnp.int32),
            "scores": jnp.full((trials, len(self.rungs)), jnp.nan),
            "promoted": jnp.zeros((trials, len(self.rungs)), bool),
            "next": jnp.int32(min(members, trials)),
        }

    def decide(self, record: Record, trial: jax.Array, scores: jax.Array, key: jax.Array) -> Decision:
        """Members in turn: score, then a job."""
        resources = jnp.array(self.rungs)
        trials = record["age"].shape[0]
        age = record["age"].at[jnp.where(trial >= 0, trial, trials)].add(1, mode="drop")
        record = {**record, "age": age}

        def one(record, member):
            mine, score = member
            rung = jnp.searchsorted(resources, record["age"][mine])
            due = (mine >= 0) & (record["age"][mine] == resources[jnp.minimum(rung, len(self.rungs) - 1)])
            # A trial that diverged has been there, and never goes on.
            entry = jnp.where(jnp.isnan(score), -jnp.inf, score)
            table = record["scores"].at[mine, rung].set(jnp.where(due, entry, record["scores"][mine, rung]))
            reached = jnp.sum(~jnp.isnan(table), axis=0)
            ready = (_descending(table) < reached // self.eta) & ~record["promoted"] & (table > -jnp.inf)
            ready = ready.at[:, -1].set(False)
            highest = jnp.max(jnp.where(ready.any(axis=0), jnp.arange(len(self.rungs)), -1))
            best = jnp.argmax(jnp.where(ready[:, highest], table[:, highest], -jnp.inf))
            fresh = record["next"] < trials
            job = jnp.where(highest >= 0, best, jnp.where(fresh, record["next"], -1))
            promotes = due & (highest >= 0)
            begins = due & (highest < 0) & fresh
            record = {
                **record,
                "scores": table,
                "promoted": record["promoted"].at[best, highest].max(promotes),
                "next": record["next"] + begins,
            }
            return record, jnp.where(due, job, mine).astype(jnp.int32)

        record, chosen = jax.lax.scan(one, record, (trial, scores))
        return _stay(record, trial)._replace(trial=chosen)

    def evaluations(self, trials: int, members: int) -> int:
        """Enough for all trials to get their share, whatever their scores."""
        work, before = 0, 0
        for rung, resource in enumerate(self.rungs):
            work += trials // self.eta**rung * (resource - before)
            before = resource
        return -(-work // members) + self.rungs[-1]


@dataclasses.dataclass(frozen=True)
class MedianStopping:
    """Stops a trial whose best score is below the median of what completed trials averaged by then.

    Golovin et al. 2017, Google Vizier, section 3.2: at evaluation ``s`` a trial ends where its best value so far is
    strictly worse than the median of the running averages up to ``s`` of all completed trials.

    Attributes:
      evaluations_each: of a whole trial.
      after: evaluations before a trial may be stopped.
      completed: whole trials there must be first.

    Raises:
      ValueError: a number below 1.
    """

    evaluations_each: int = 9
    after: int = 1
    completed: int = 3

    def __post_init__(self):
        if min(self.evaluations_each, self.after, self.completed) < 1:
            raise ValueError(f"{self} has a number below 1; give at least 1")

    def start(self, members: int, trials: int) -> Record:
        """Nothing is scored; the first trials have begun."""
        return {
            "age": jnp.zeros(trials, jnp.int32),
            "scores": jnp.full((trials, self.evaluations_each), jnp.nan),
            "completed": jnp.zeros(trials, bool),
            "next": jnp.int32(min(members, trials)),
        }

    def decide(self, record: Record, trial: jax.Array, scores: jax.Array, key: jax.Array) -> Decision:
        """All are scored, those that are whole complete, the others held against the median; the ended make room."""
        trials = record["age"].shape[0]
        runs = trial >= 0
        place = jnp.where(runs, trial, trials)
        at = record["age"][jnp.maximum(trial, 0)]
        table = record["scores"].at[place, at].set(jnp.where(jnp.isnan(scores), -jnp.inf, scores), mode="drop")
        age = record["age"].at[place].add(1, mode="drop")
        whole = runs & (at + 1 >= self.evaluations_each)
        completed = record["completed"].at[place].max(whole, mode="drop")
        averages = jnp.cumsum(table, axis=1) / jnp.arange(1, self.evaluations_each + 1)
        medians = jnp.nanmedian(jnp.where(completed[:, None], averages, jnp.nan), axis=0)
        best = jnp.nanmax(jnp.where(jnp.isnan(table), -jnp.inf, table), axis=1)[jnp.maximum(trial, 0)]
        ripe = (at + 1 >= self.after) & (jnp.sum(completed) >= self.completed)
        stopped = runs & ~whole & ripe & (best < medians[jnp.minimum(at, self.evaluations_each - 1)])
        stopped |= runs & (best == -jnp.inf)
        free = whole | stopped
        turn = record["next"] + jnp.cumsum(free) - 1
        chosen = jnp.where(free, jnp.where(turn < trials, turn, -1), trial).astype(jnp.int32)
        following = jnp.minimum(record["next"] + jnp.sum(free), trials).astype(jnp.int32)
        record = {"age": age, "scores": table, "completed": completed, "next": following}
        return _stay(record, trial)._replace(trial=chosen)

    def evaluations(self, trials: int, members: int) -> int:
        """Enough for every trial to be whole."""
        return -(-trials // members) * self.evaluations_each


@dataclasses.dataclass(frozen=True)
class Pbt:
    """Population-based training, Jaderberg et al. 2017, arXiv:1711.09846: exploit by truncation, explore by factors.

    Every `every` evaluations each of the worst ``⌊share · members⌋`` (at least one) takes over the state and the
    numbers of one of as many best, drawn anew, by rank alone as truncation selection does; and each number it varies is
    multiplied by a factor drawn from `factors`, and moved by a normal of deviation `noise`.

    Attributes:
      every: evaluations between looks.
      share: of the members that are replaced, and of those copied.
      factors: drawn from in exploring; ``(1.0,)`` exploits alone.
      noise: for numbers that a factor can't move, such as those that start at 0.
      exploits: False copies nothing, so that members explore for themselves.

    Raises:
      ValueError: a number that can't be.
    """

    every: int = 1
    share: float = 0.2
    factors: tuple[float, ...] = (0.8, 1.2)
    noise: float = 0.0
    exploits: bool = True

    def __post_init__(self):
        if self.every < 1 or not 0 < self.share <= 0.5 or not self.factors:
            raise ValueError(f"{self} can't be; give every of at least 1, a share up to a half, and factors")

    def start(self, members: int, trials: int) -> Record:
        """Nothing but how often it was evaluated."""
        if trials != members:
            raise ValueError(f"population-based training has no queue, got {trials} trials for {members} members")
        return {"evaluations": jnp.int32(0)}

    def decide(self, record: Record, trial: jax.Array, scores: jax.Array, key: jax.Array) -> Decision:
        """Who takes over from whom."""
        members = trial.shape[0]
        some = max(1, int(self.share * members))
        ranks = _descending(scores)
        drawn = jax.random.randint(key, (members,), 0, min(some, members))
        source = jnp.argsort(ranks)[drawn]
        worst = jnp.isnan(scores) | (ranks >= members - some)
        evaluations = record["evaluations"] + 1
        due = evaluations % self.every == 0
        takes = due & worst & ~jnp.isnan(scores[source]) & self.exploits
        copied = jnp.where(takes, source, jnp.arange(members))
        explores = takes if self.exploits else jnp.full(members, due)
        return Decision({"evaluations": evaluations}, trial, copied, explores)

    def perturbed(self, values: jax.Array, key: jax.Array) -> jax.Array:
        """Numbers ``[members, ...]``, each with a draw of its own."""
        keys = jax.random.split(key)
        factors = jax.random.choice(keys[0], jnp.array(self.factors), values.shape)
        return values * factors + self.noise * jax.random.normal(keys[1], values.shape)


SCHEDULES: dict[str, type] = {"asha": Asha, "median": MedianStopping, "pbt": Pbt}


def as_schedule(schedule: Any) -> Schedule | None:
    """A schedule by name, or as it is.

    Raises:
      ValueError: neither a known name nor a `Schedule`.
    """
    if schedule is None or isinstance(schedule, Schedule):
        return schedule
    if schedule in SCHEDULES:
        return SCHEDULES[schedule]()
    raise ValueError(f"there is no schedule {schedule!r}; use one of {', '.join(SCHEDULES)}, or a Schedule")
