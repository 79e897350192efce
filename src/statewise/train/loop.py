"""The training run."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from statewise.data.record import Record
from statewise.nn.contract import Layer
from statewise.train.adam import MAX_RESTARTS, AdamPhase
from statewise.train.checkpoint import Checkpoint
from statewise.train.config import FitConfig
from statewise.train.distributed import Ranks, pick_device
from statewise.train.modes import cpu_threads
from statewise.train.polish import PolishPhase
from statewise.train.problem import Problem, drop_gradients
from statewise.train.progress import Bar, progress_bar
from statewise.train.result import FitResult
from statewise.train.signals import check_channels
from statewise.train.tracker import Tracker, finite_or_none


def fit(
    model: Layer,
    train: Iterable[Record],
    valid: Iterable[Record] | None,
    config: FitConfig | None = None,
    *,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str | torch.device | None = None,
    progress: bool | None = None,
    threads: int | None = None,
    judge_start: bool = False,
) -> FitResult:
    """Train a model to simulate records in free run; the best weights end up in the model.

    Adam on windows of the records, then L-BFGS for small models. The loss is the mean over observed
    outputs behind the washout and behind the first ``skip`` samples of a record. At every
    evaluation the validation records are simulated in free run; the weights with the least error
    are kept. On one machine type the result depends on the arguments alone: equal arguments give
    equal bits on the CPU.

    Where ``torch.distributed`` is initialised, as inside :func:`~statewise.train.torchrun_group`
    under torchrun, every rank calls with the same arguments, the ranks share the windows of each
    batch, and the result is that of one process up to rounding. ``folder`` is then one that all
    ranks see; the main rank alone writes and shows.

    Args:
        model: a model in the layer contract, changed in place.
        train: normalised records to learn from, NaN where missing.
        valid: normalised records to choose by, or None: then the last weights are kept.
        config: settings; None takes the defaults.
        seed: seed of windows, dropout and encoder.
        folder: where ``log.jsonl`` and the checkpoint go; None writes nothing.
        resume: go on from the checkpoint in ``folder`` when there is one. The course is then the
            one that an uninterrupted run takes. Without it an old checkpoint is removed.
        device: "cpu", "cuda", "auto"; None trains where the model is. The model goes back there.
        progress: show a progress bar on standard error; None shows it on a terminal.
        threads: CPU threads while training; None is 1 for a small model, whose operations are too
            short to share, and those of torch otherwise.
        judge_start: validate the weights that the model comes with, too, so that training never
            ends below them; for a model that begins at a fit.

    Returns:
        History, best step and error, and the trained initial-state strategy.

    Raises:
        DataError: records whose channels differ, or without an output to learn from.
        ValueError: records that do not fit the model, ``resume`` without ``folder``, or a
            checkpoint made with other settings, seed or data; the message names the difference.
    """
    config = FitConfig() if config is None else config
    records = list(train)
    held_out = None if valid is None else list(valid)
    _check_fit(model, records, "training")
    if held_out is not None:
        _check_fit(model, held_out, "validation")
    if seed < 0:
        raise ValueError(f"a seed is 0 or more; given {seed}")
    if resume and folder is None:
        raise ValueError("resume=True needs the folder of the run; given folder=None")
    if threads is not None and threads < 1:
        raise ValueError(f"threads is 1 or more; given {threads}")
    home = next(model.parameters()).device
    model.to(pick_device(device, home))
    was_training = model.training
    try:
        shown = progress_bar(progress if Ranks().is_main else False)
        with cpu_threads(model, threads), shown as bar:
            problem = Problem(model, records, held_out, config, seed, Ranks())
            checkpoint, log = None, None
            if folder is not None:
                checkpoint = Checkpoint(Path(folder), problem, (records, held_out))
                log = Path(folder) / "log.jsonl" if problem.ranks.is_main else None
            run = Run(problem, bar, checkpoint, log, resume)
            if judge_start:
                run.judge_start()
            result = run.result()
        result.initialiser.to(home)
        return result
    finally:
        drop_gradients(list(model.parameters()))
        model.to(home)
        model.train(was_training)


def _check_fit(model: Layer, records: list[Record], what: str) -> None:
    check_channels(records)
    n_u, n_y = records[0].n_u, records[0].n_y
    if (n_u, n_y) != (model.d_input, model.d_output):
        raise ValueError(
            f"the model has {model.d_input} inputs and {model.d_output} outputs; the {what} "
            f"records have {n_u} and {n_y}"
        )


class Run:
    """One call of :func:`fit`: the phases in turn, with evaluations between.

    Args:
        problem: the problem.
        bar: the progress bar.
        checkpoint: where the state goes, or None.
        log: file for the history, or None.
        resume: go on from the checkpoint when there is one.
    """

    def __init__(
        self,
        problem: Problem,
        bar: Bar,
        checkpoint: Checkpoint | None,
        log: Path | None,
        resume: bool,
    ) -> None:
        self.problem, self.config, self.bar = problem, problem.config, bar
        self.checkpoint = checkpoint
        validated = problem.validate is not None
        self.tracker = Tracker(
            problem.modules, validated=validated, log=log, keep_last=self.config.keep == "last"
        )
        self.adam = AdamPhase(problem, problem.sampler())
        self.polish: PolishPhase | None = None
        self.phase, self.reason, self.seconds_before = "adam", "", 0.0
        if checkpoint is not None and problem.ranks.is_main:
            checkpoint.sweep() if resume else checkpoint.clear()
        problem.ranks.wait()
        if checkpoint is not None and resume and checkpoint.exists():
            checkpoint.load(self)
        problem.ranks.wait()
        self.tracker.rewrite_log()
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall time, runs before a resume included."""
        return self.seconds_before + time.monotonic() - self.started

    def judge_start(self) -> None:
        """Offer the weights before the first step, as step 0."""
        if self.tracker.history or self.adam.step_index or not self.tracker.validated:
            return
        self.problem.modules.eval()
        valid = self.problem.error()
        assert valid is not None
        self.tracker.offer(valid, 0)
        self._row("start", 0, math.nan, valid, None, math.nan)
        self.tracker.append_to_log()

    def result(self) -> FitResult:
        """Run what is left of the phases."""
        if self.phase == "adam":
            self._run_adam()
        if self.phase == "polish":
            self._run_polish()
        self.tracker.restore()
        validated = self.tracker.validated and math.isfinite(self.tracker.best_score)
        return FitResult(
            history=self.tracker.history,
            best_step=self.tracker.best_step,
            best_valid=self.tracker.best_score if validated else None,
            seconds=self.seconds,
            reason=self.reason,
            steps=self.adam.step_index,
            polish_steps=0 if self.polish is None else self.polish.iterations,
            restarts=self.adam.restarts,
            initialiser=self.problem.simulator,
        )

    def _run_adam(self) -> None:
        adam, config = self.adam, self.config
        self.problem.modules.train()
        while not adam.finished and not self.reason:
            good = adam.step()
            due = adam.step_index % config.eval_every == 0 or adam.finished
            self.bar.move("adam", adam.step_index, config.steps)
            if good and due:
                good = adam.is_finite()
            if not good:
                self._go_back()
            elif due:
                self._evaluate_adam()
        self._end_adam()

    def _go_back(self) -> None:
        """Return to the best weights at half the rate, or give up."""
        if self.adam.restarts == MAX_RESTARTS:
            self.reason = f"the loss was not finite {MAX_RESTARTS + 1} times"
            return
        self.tracker.restore()
        self.adam.restart()

    def _evaluate_adam(self) -> None:
        loss, norm = self.adam.averages()
        with self.adam.candidate():
            valid = self.problem.error()
            self.tracker.offer(loss if valid is None else valid, self.adam.step_index)
        self._row("adam", self.adam.step_index, loss, valid, self.adam.rate, norm)
        if self._out_of_patience():
            self.reason = self._impatience()
        self._save()
        self.tracker.append_to_log()

    def _end_adam(self) -> None:
        config = self.config
        self.tracker.restore()
        self.reason = self.reason or f"all {self.adam.step_index} steps were taken"
        small = self.problem.n_parameters() <= config.polish_max_parameters
        if not config.polish_steps or not small:
            self.reason += "" if small else "; too many parameters to polish"
            self.phase = "done"
            self._save()
            return
        self.phase = "polish"
        self.tracker.new_phase()
        self.polish = PolishPhase(self.problem)
        self._save()

    def _run_polish(self) -> None:
        if self.polish is None:
            raise RuntimeError("the polish was not set up")
        with self.polish as polish:
            while not polish.finished:
                loss, norm = polish.step()
                self.bar.move("polish", polish.iterations, self.config.polish_steps)
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    polish.stop("the loss of the polish was not finite")
                    break
                valid = self.problem.error()
                step = self.adam.step_index + polish.iterations
                self.tracker.offer(loss if valid is None else valid, step)
                self._row("polish", step, loss, valid, None, norm)
                if self._out_of_patience():
                    polish.stop(self._impatience())
                self._save()
                self.tracker.append_to_log()
        self.reason = f"{self.reason}; polish: {polish.reason}"
        self.phase = "done"
        self._save()

    def _row(
        self,
        phase: str,
        step: int,
        loss: float,
        valid: float | None,
        rate: float | None,
        norm: float,
    ) -> None:
        row = {"phase": phase, "step": step}
        numbers = {"loss": loss, "valid": valid, "lr": rate, "grad_norm": norm}
        row |= {name: finite_or_none(value) for name, value in numbers.items()}
        row["seconds"] = round(self.seconds, 3)
        self.tracker.add(row)
        best = self.tracker.best_score
        text = f"loss {loss:.3g}"
        if valid is not None:
            text += f"  valid NRMSE {valid:.4f}  best {best:.4f}"
        self.bar.say(text)

    def _out_of_patience(self) -> bool:
        patience = self.config.patience
        return patience is not None and self.tracker.unimproved >= patience

    def _impatience(self) -> str:
        what = "validation error" if self.tracker.validated else "training loss"
        return f"no better {what} in {self.tracker.unimproved} evaluations"

    def _save(self) -> None:
        if self.checkpoint is not None:
            self.checkpoint.save(self)
