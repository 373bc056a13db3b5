"""Trains an experiment: build and check, restore, then steps, evaluations, tasks and checkpoints in order."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ft_jax.core import TrainState
from ft_jax.core.program import Events
from ft_jax.training.causes import one_sentence
from ft_jax.training.clock import Stretch
from ft_jax.training.experiment import Experiment
from ft_jax.training.later import extended
from ft_jax.training.logging import HYPER_AT, Log
from ft_jax.training.loop.ending import check_going_on, going_on, keep_model, outcomes_of, summary_of
from ft_jax.training.loop.heads import grown, grows, told
from ft_jax.training.loop.leaving import shown
from ft_jax.training.loop.ledger import Ledger
from ft_jax.training.loop.looking import keep_shown
from ft_jax.training.loop.measuring import checked, measured
from ft_jax.training.loop.nonfinite import Broken, watch
from ft_jax.training.loop.returning import Returns, Skips
from ft_jax.training.loop.saving import Saving
from ft_jax.training.loop.sizes import resized
from ft_jax.training.loop.stops import compiling, due, next_stop
from ft_jax.training.loop.targets import at_target, no_better
from ft_jax.training.prepare import Plan, notes_of, prepare, widened
from ft_jax.training.process import set_up_process, start_processes
from ft_jax.training.result import Diverged, Moment, Progress, Result
from ft_jax.training.run_folder import RunFolder, check_folder, finite
from ft_jax.training.serving.of_run import why_unkeepable
from ft_jax.training.signals import interruptions
from ft_jax.training.stream import Feeder
from ft_jax.training.tracing import flatten
from ft_jax.training.trials import best_value


def fit(
    experiment: Experiment,
    *,
    run: str | Path | None = None,
    resume: bool = True,
    callbacks: Sequence[Callable[[Moment], TrainState | None]] = (),
    command: Sequence[str] | None = None,
    quiet: bool = False,
) -> Result:
    """Trains an experiment into a run folder.

    The folder is resumed where it holds the same experiment unfinished: killing a run at any moment and
    running it again ends in the same bits. A finished one gives its result without training.

    Args:
      experiment: what to run.
      run: the run folder; the experiment's by default.
      resume: False refuses a folder that holds a run already.
      callbacks: called with a `Moment` after evaluations and tasks; one may return a state to go on with, such as
        ``moment.state.with_hyper({"optimizer.learning_rate": 1e-4})``.
      command: the command line to record, for the report.
      quiet: no progress line.

    Raises:
      ValueError, KeyError: bad input in one sentence, before anything is trained or overwritten.
      Diverged: the loss or gradient is not finite and `Experiment.nonfinite` says to stop; the last good checkpoint
        and the batch are kept.
    """
    start_processes()
    set_up_process()
    path = Path(run) if run is not None else experiment.folder
    more = check_folder(experiment, path, resume)
    plan = prepare(experiment)
    if more is not None:
        check_going_on(plan, path)
    folder = RunFolder(experiment, path, resume, command)
    try:
        folder.keep_classes(plan.classes, grows(plan))
        return _Loop(plan, folder, tuple(callbacks), quiet).run()
    finally:
        folder.release()


class _Loop:
    """The state of one call of `fit`, and what happens to it in order."""

    def __init__(self, plan: Plan, folder: RunFolder, callbacks, quiet: bool):
        self.plan, self.folder, self.callbacks, self.quiet = plan, folder, callbacks, quiet
        self.experiment, self.distributed, self.log = plan.experiment, plan.distributed, None
        self.state = self.distributed.init(plan.model.params, plan.key)
        self.progress = Progress()
        self.saving = Saving(plan, folder, self.state)
        self.watch = watch(self.experiment.nonfinite, plan.composition)
        self.returns = Returns(self.experiment.nonfinite, self.saving, folder.path)

    def run(self) -> Result:
        """Restores, trains what is left, and writes the summary."""
        try:
            restored = self.saving.checkpoints.newest() is not None
            if restored:
                if grows(self.plan):
                    self.reach(self.saving.task())
                self.state, self.progress = self.saving.restored(self.state.frozen)
            if self.folder.finished is not None:
                self.go_back_to_best()
                return self.result(self.folder.finished, 0)
            start = self.progress.step if restored else -1
            self.log = self.log_from(start)
            self.skips = Skips(self.experiment.nonfinite, self.progress.step, self.state)
            try:
                self.ledger = Ledger(self.plan, self.state)
                for sentence in self.saving.checkpoints.left_out:
                    self.log.event(start, "damage", sentence)
                if restored:
                    self.log.event(start, "resume", f"resumed from the checkpoint of step {start}")
                    self.go_on()
                else:
                    self.resize("budget.batch_size")
                unkept = why_unkeepable(self.plan)
                notes = notes_of(self.plan)
                if unkept:
                    notes.append(f"ft-jax export, predict and generate will not have this model: {unkept}")
                for note in () if restored else notes:
                    self.log.event(0, "model", note)
                summary = self.train()
                summary = keep_model(self.plan, self.state, self.progress, summary, unkept, self.folder.path)
                self.folder.finish(summary)
            except Exception as error:
                status = "diverged" if isinstance(error, Diverged) else "failed"
                with contextlib.suppress(OSError):  # a full disk has no room for it either
                    self.folder.finish({**self.summary(status), "message": str(error)})
                raise
            finally:
                self.log.close()
        finally:
            self.saving.checkpoints.close()
        return self.result(summary, self.distributed.compilations())

    def go_on(self) -> None:
        """Where a finished run was given more steps, stands before its end again."""
        more = going_on(self.plan, self.progress) if self.plan.later is None else None
        if more is not None:
            self.progress, message = more
            self.log.event(self.progress.step, "more steps", message)

    def train(self) -> dict[str, Any]:
        """All tasks from where the run stands; the summary."""
        with interruptions() as interrupted:
            if "before" not in self.progress.scores:
                self.note(scores={"before": self.guarded("the evaluation", self.measure, "before")})
                self.guarded("answering", keep_shown, self.plan, self.state, "before", self.folder.path, self.log)
            while self.reach(self.progress.task):
                try:
                    ended = self.task(interrupted)
                except Broken as broken:
                    self.go_back_from(broken)
                    continue
                if not ended:
                    self.log.event(self.progress.step, "signal", "interrupted; the same command goes on from here")
                    return self.summary("interrupted")
        if self.go_back_to_best():
            best = int(np.ravel(self.distributed.collect(self.state.step))[0])
            self.log.event(self.progress.step, "keep_best", f"went back to the best state, of step {best}")
        self.guarded("answering", keep_shown, self.plan, self.state, "after", self.folder.path, self.log)
        return self.summary("finished")

    def reach(self, task: int) -> bool:
        """Whether there is a task of that number; a stream that is not drawn to its end is asked for it."""
        while task >= len(self.plan.stream):
            longer = self.guarded("the next task", extended, self.plan, widened)
            if longer is None:
                return False
            if longer.distributed is not self.distributed:
                longer = self.grow(longer)
            self.plan = longer
            if self.log is not None:
                self.log.reach(longer.total_steps)
        return True

    def grow(self, longer: Plan) -> Plan:
        """Lets the state go over to the larger head of the next task; its plan."""
        longer, self.state = self.guarded("growing the head", grown, self.plan, longer, self.state)
        self.distributed = longer.distributed
        self.saving.grow(longer, self.state)
        self.folder.keep_classes(longer.classes, grows=True)
        if self.log is not None:
            self.log.event(self.progress.step, "heads", told(self.plan, longer))
            self.ledger = Ledger(longer, self.state)
        return longer

    def task(self, interrupted: Callable[[], bool]) -> bool:
        """The current task from where it stands; False if it was interrupted."""
        task, steps = self.plan.stream[self.progress.task], self.plan.steps[self.progress.task]
        every = self.experiment.evaluation.every
        put = checked(self.plan, f"task {task.name!r}", self.distributed.put_batch)
        with Feeder(task, put, self.progress.place, self.plan.ask, self.progress.batches, self.plan.padding) as feeder:
            compiled = False
            while self.progress.done < steps and not self.progress.over:
                # Checkpoints of this step have the numbers as they were, so a run that goes on comes by here too.
                if numbers := self.experiment.hyper_at.get(self.progress.step):
                    self.state = self.ledger.scheduled(self.state, numbers, self.log, self.progress.step)
                    self.resize(HYPER_AT)
                compiled &= not feeder.take_together(self.progress.batches, self.progress.place)
                # The first step compiles, so it is a stretch of its own, which speeds leave out.
                until = next_stop(self.experiment, self.progress, steps) if compiled else self.progress.done + 1
                waits = compiling(self.plan, self.progress)
                with contextlib.nullcontext() if compiled else self.log.waiting(f"compiling {waits}"):
                    metrics = self.guarded("training", self.stretch, feeder, until, interrupted, compiled)
                compiled = True
                ends = self.progress.done == steps or self.progress.over
                if due(self.progress, every) and not ends:
                    self.evaluation()
                if ends or self.progress.over:
                    break
                stopping = interrupted()
                if stopping or due(self.progress, every, self.experiment.checkpoints.every):
                    self.save(metrics)
                if stopping:
                    return False
            self.end_of_task(feeder)
        return True

    def guarded(self, what: str, act: Callable, *arguments: Any) -> Any:
        """What `act` gives; what other libraries raise in it is told in one sentence, with where the run stood."""

        def where():
            place = min(self.progress.task, len(self.plan.stream) - 1)
            return f"{what} failed at step {self.progress.step} of task {self.plan.stream[place].name!r}"

        with one_sentence(where, "change what it names; the same command goes on from the last checkpoint"):
            return act(*arguments)

    def stretch(self, feeder: Feeder, until: int, interrupted, timed: bool) -> dict[str, Any]:
        """Steps without a pause, until so many are done on the task; the last one's metrics, computed."""
        waiting: list[Any] = []
        clock, metrics = Stretch(self.progress.seconds, timed), {}
        while self.progress.done < until and not interrupted():
            fed = feeder.take(lambda: self.state, interrupted)
            if fed is None:
                # The source has ended, or the run is to stop before it goes on.
                self.note(over=not interrupted())
                break
            if self.experiment.evaluation.prequential:
                waiting.append(self.distributed.measure(self.state, fed.batch)[0])
            self.state, metrics = self.distributed.step(self.state, fed.batch)
            count = jax.process_count() if timed else 0
            self.progress = self.progress.after_step(fed.place, fed.examples * count, (fed.tokens or 0) * count)
            step = self.progress.step
            if step % self.experiment.log_every == 0 or step in (1, self.plan.total_steps):
                told = {**self.ledger.rates(), **metrics}
                seen = self.progress.examples, self.progress.tokens, feeder.rollouts
                self.log.train(step, told, clock.seconds, *seen)
            self.watch.add(step, metrics, fed)
        self.watch.end()
        self.watch.tell(self.log)
        jax.block_until_ready(metrics)
        self.note(seconds=clock.end())
        if waiting:
            window = [*self.progress.tested, *finite(jax.device_get(waiting))]
            self.note(tested=window[-self.experiment.evaluation.prequential :])
        return metrics

    def evaluation(self) -> None:
        """Measures all sets, lets methods act on it, and sees whether the task is over or this state the best."""
        progress, spec, budget = self.progress, self.experiment.evaluation, self.experiment.budget
        task = self.plan.stream[progress.task].name
        scores = self.guarded(
            "the evaluation",
            self.measure,
            "training" if progress.done < self.plan.steps[progress.task] else f"after {task}",
        )
        self.note(latest=scores, evaluated=progress.step)
        watched = self.plan.watched(progress.task)
        if not scores:
            return
        if self.distributed.after_eval:
            self.events(self.distributed.after_eval, "evaluation", flatten(scores, watched, self.progress.tables))
        value = best_value(scores[watched][spec.metric], spec.mode)
        if spec.better(value, progress.best):
            self.note(best=value, bad=0, best_scores=scores, best_tables=self.progress.tables)
            if spec.keep_best:
                self.progress = self.saving.save(self.state, self.progress, "best")
        else:
            self.note(bad=progress.bad + 1)
            if budget.patience is not None and self.progress.bad >= budget.patience:
                message = no_better(spec.metric, self.progress.bad, self.progress.best)
                self.log.event(progress.step, "patience", f"task {task} ended early: {message}")
                self.note(over=True)
        if not np.isfinite(value):
            message = f"{spec.metric} of {watched} is not finite, which counts as no better"
            self.log.event(progress.step, "evaluation", message)
        met = at_target(self.experiment, scores, watched, value)
        if met is not None:
            self.log.event(progress.step, "target", f"task {task} ended: {met}")
            self.note(over=True)
        self.tell("evaluation", task)

    def end_of_task(self, feeder: Feeder) -> None:
        """Methods take leave of the task, all sets are measured, everything is saved."""
        task = self.plan.stream[self.progress.task].name
        remembers = bool(self.distributed.after_task)
        stacks = shown(self.plan, self.progress.task, feeder, lambda: self.state)
        for name, act in self.distributed.after_task.items():
            for batches in stacks(name):
                self.events(Events({name: act}), f"end of task {task}", batches)
        if remembers or self.progress.evaluated != self.progress.step:
            self.evaluation()
        self.tell("task", task)
        scores = {}
        if len(self.plan.stream) > 1 or self.plan.later is not None:
            scores[f"after {task}"] = self.progress.latest
        self.progress = self.progress.next_task(self.plan.steps[self.progress.task])
        if not self.reach(self.progress.task):
            kept = self.progress.best_scores if self.experiment.evaluation.keep_best else None
            scores["after"] = kept or self.progress.latest
        self.note(scores={**self.progress.scores, **scores})
        self.save()

    def measure(self, phase: str) -> dict[str, Any]:
        """The scores of the state on all evaluation sets."""
        found, tables = measured(self.plan, self.state, self.progress.tested)
        self.note(tables=tables)
        if found:
            self.log.evaluation(self.progress.step, phase, found)
        return found

    def events(self, parts: Events, cause: str, argument: Any) -> None:
        """Lets one method after another act on what happened; every number that one changed is a line of the log."""
        step = self.progress.step
        self.ledger.stepped(self.state, self.log, step)
        for name, act in parts.items():
            self.state = self.guarded(f"what {name} does at {cause}", lambda act=act: act(self.state, argument))
            self.ledger.changed(self.state, f"{name} at {cause}", self.log, step)

    def tell(self, kind: str, task: str) -> None:
        """Calls the callbacks, and goes on with the state that one returns."""
        moment = Moment(kind, self.progress.step, task, self.state, self.progress.latest)
        self.state = self.ledger.called(moment, self.callbacks, self.log)
        self.resize("budget.batch_size")

    def resize(self, cause: str) -> None:
        """How many batches of the data the next updates take."""
        self.progress = resized(self.plan, self.state, self.progress, self.log, cause)

    def note(self, **changes: Any) -> None:
        """The progress with some fields changed."""
        self.progress = dataclasses.replace(self.progress, **changes)

    def save(self, metrics: dict[str, Any] | None = None) -> None:
        """Saves a checkpoint, once the log is on disk and the state is known to be good."""
        self.log.flush()
        skips = self.skips.count(self.state)
        if self.saving.lost(self.state, metrics if skips is None else None):
            raise Broken(self.progress.step, "loss or a parameter", None, self.progress.place)
        self.skips.tell(self.progress.step, skips, self.log)
        self.progress = self.saving.save(self.state, self.progress)

    def go_back_to_best(self) -> bool:
        """With keep_best, the state that was best; whether there is one."""
        best = self.saving.best(self.state.frozen)
        if best is not None:
            self.state = best
        return best is not None

    def go_back_from(self, broken: Broken) -> None:
        """Stands at the last good checkpoint again and behind the batch that broke a step, or ends the run."""
        try:
            self.state, self.progress, message = self.returns.after(broken, self.state.frozen)
        except Diverged as error:
            self.log.event(broken.step, "divergence", str(error))
            raise
        self.log.close()
        self.log = self.log_from(self.progress.step)
        self.log.event(self.progress.step, "nonfinite", message)

    def log_from(self, step: int) -> Log:
        """The log of what follows a step; lines past it are made again."""
        return Log(self.folder.path if jax.process_index() == 0 else None, self.plan.total_steps, step, self.quiet)

    def summary(self, status: str) -> dict[str, Any]:
        """What ``summary.json`` says."""
        return summary_of(self.plan, self.state, self.progress, status, self.saving.wall(self.progress))

    def result(self, summary: dict[str, Any], compilations: int) -> Result:
        """What `fit` returns."""
        return Result(
            state=self.distributed.collect(self.state),
            program=self.plan.program,
            model=self.plan.model,
            composition=self.plan.composition,
            scores=self.progress.scores,
            run=self.folder.path,
            status=summary["status"],
            summary=summary,
            outcomes=outcomes_of(self.plan, self.progress),
            compilations=compilations,
        )
