"""Optuna's journal in the sweep's folder: parameters when a trial starts, and who is worth another epoch.

The only importer of optuna beside `journal`. All trials are there from the start, waiting, in Optuna's numbers the
sweep's own: so a task that starts, dies and starts again takes up one and the same trial, and none can be doubled. The
journal is a file made for shared filesystems; there is no server and no agent.

Early stopping is asynchronous successive halving (Li et al. 2020, "A System for Massively Parallel Hyperparameter
Tuning", in its stopping form): at a rung a trial goes on only among the best 1/eta of those that reached it. A decision
follows from the values in the journal alone, so it can be asked for again after any death.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from fashion_dist.cluster import run_lock
from fashion_dist.errors import RunError
from fashion_dist.io import write_json
from fashion_dist.paths import RunDir
from fashion_dist.run_status import RunState
from fashion_dist.sweep import decisions
from fashion_dist.sweep.spec import Parameter
from fashion_dist.sweep.sweep_record import Sweep, Trial
from fashion_dist.tasks import Monitor
from fashion_dist.tracking.metrics_log import iter_metrics

if TYPE_CHECKING:
    import optuna

STARTUP = 10
"""Trials that are drawn at random before TPE has something to go by, as Optuna does by default."""
_RUN = "run_id"
"""Of a trial in the journal."""
CANDIDATES = 100
"""Points that TPE weighs for a trial; with Optuna's 24 it came closer to the best of a recorded sweep less often."""


def goes_on(value: float, others: Sequence[float], eta: float, monitor: Monitor) -> tuple[bool, int, int]:
    """Whether a trial is among the best 1/eta at a rung, its place from 1, and how many may go on.

    `others` are the values of trials that reached the rung before. One whose value is NaN goes on only where there is
    nobody to be compared with.
    """
    place = 1 + sum(monitor.is_better(other, value) for other in others)
    if math.isnan(value):
        place = 1 + len(others)
    places = max(1, int((len(others) + 1) / eta))  # the first to arrive has nobody to be compared with
    return place <= places, place, places


class Study:
    """The sweep's journal, opened."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep

    def create(self) -> None:
        """Make the journal with all trials waiting in it; one that was half made before is made anew."""
        import optuna

        folder = self.sweep.folder
        folder.journal.unlink(missing_ok=True)
        with _quiet():
            study = optuna.create_study(
                storage=self._storage(), study_name="sweep",
                direction="maximize" if self.sweep.monitor.mode == "max" else "minimize",
            )  # fmt: skip
            for _ in self.sweep.trials:
                study.enqueue_trial({})

    def begin(self, number: int) -> Trial:
        """The trial of that number, with the parameters that the search gives it if it has none yet."""
        known = self.sweep.trial(number)
        with run_lock.file_lock(self.sweep.folder.path, "study"), _quiet():
            study = self._open(number)
            frozen = self._frozen(study, number)
            if frozen.state == _states().WAITING:
                study._storage.set_trial_state_values(frozen._trial_id, _states().RUNNING)
            if known is not None:
                return known
            self._take_over(study)
            trial = self._ask(study, number)
            study._storage.set_trial_user_attr(frozen._trial_id, _RUN, trial.run_id)
            path = self.sweep.folder.trial(number)
            path.parent.mkdir(exist_ok=True)
            write_json(path, {"settings": dict(trial.settings), "run_id": trial.run_id})
            others = (other for other in study.get_trials(deepcopy=False) if other.number != number)
            same = next((other for other in others if self._run_id(other) == trial.run_id), None)
        decisions.note(self.sweep.folder, number, "begins", self._why(study), settings=dict(trial.settings))
        if same is not None:
            reason = f"it was given the settings of trial {same.number}, whose run is its own too"
            decisions.note(self.sweep.folder, number, "is the same as another", reason)
        return trial

    def _run_id(self, frozen: optuna.trial.FrozenTrial) -> str | None:
        """Of a trial that has begun: in the journal, which is read once, or in a file of its own in older sweeps."""
        if frozen.state == _states().WAITING or _RUN in frozen.user_attrs:
            run_id: str | None = frozen.user_attrs.get(_RUN)
            return run_id
        trial = self.sweep.trial(frozen.number)
        return trial.run_id if trial is not None else None

    def _ask(self, study: optuna.Study, number: int) -> Trial:
        import optuna

        asked = optuna.trial.Trial(study, study.trials[number]._trial_id)
        parameters = self.sweep.spec.parameters
        settings = {parameter.key: suggest(asked, parameter) for parameter in parameters}
        return self.sweep.make_trial(number, settings)

    def _why(self, study: optuna.Study) -> str:
        ended = sum(trial.state in (_states().COMPLETE, _states().PRUNED) for trial in study.trials)
        if ended < STARTUP:
            return f"drawn at random: {ended} of the {STARTUP} trials that a search begins with have ended"
        return f"chosen by TPE from {ended} trials that have ended"

    def _take_over(self, study: optuna.Study) -> None:
        """Tell Optuna what became of trials whose runs have ended since."""
        gone = decisions.given_up(self.sweep.folder)
        for frozen in study.trials:
            trial = self.sweep.trial(frozen.number) if frozen.state == _states().RUNNING else None
            if trial is None:
                continue
            progress = RunState.read(self.sweep.run_of(trial).state)
            value = progress.best.get("value") if progress is not None else None
            if value is not None and progress is not None and progress.state == "done":
                study._storage.set_trial_state_values(frozen._trial_id, _states().COMPLETE, [float(value)])
            elif value is not None and frozen.number in gone:
                study._storage.set_trial_state_values(frozen._trial_id, _states().PRUNED, [float(value)])

    def prune(self, number: int, epoch: int, run: RunDir) -> bool:
        """Whether the trial is not worth another epoch after this many; looks only at the rungs.

        Raises:
            RunError: the run has not measured that epoch.
        """
        halving = self.sweep.spec.halving
        if halving is None or epoch not in halving.rungs:
            return False
        monitor = self.sweep.monitor
        values = _values_until(run, epoch, monitor.metric)
        value = values[-1]
        judged = value if halving.strict else max(values, key=monitor.score)
        with run_lock.file_lock(self.sweep.folder.path, "study"), _quiet():
            study = self._open(number)
            others = [
                frozen.intermediate_values[epoch]
                for frozen in study.trials
                if frozen.number != number and epoch in frozen.intermediate_values
            ]
            mine = self._frozen(study, number)
            if epoch not in mine.intermediate_values:
                study._storage.set_trial_intermediate_value(mine._trial_id, epoch, value)
            on, place, places = goes_on(judged, others, halving.eta, monitor)
            reason = (
                f"after {epoch} epochs {judged:.6g} is number {place} of {len(others) + 1} that got so far; "
                f"{'one goes' if places == 1 else f'{places} go'} on"
            )
            decisions.note(
                self.sweep.folder, number, "goes on" if on else "is given up", reason, epoch=epoch, value=value
            )
        return not on

    def _frozen(self, study: optuna.Study, number: int) -> optuna.trial.FrozenTrial:
        """The trial of that number; raises RunError where the journal has lost the line that made it."""
        if number >= len(study.trials):
            raise RunError(f"{self.sweep.folder.journal}: trial {number} is not in it; its beginning is damaged")
        return study.trials[number]

    def _storage(self) -> Any:
        from optuna.storages import JournalStorage

        from fashion_dist.sweep.journal import Journal

        return JournalStorage(Journal(self.sweep.folder.journal))

    def _open(self, number: int) -> optuna.Study:
        import optuna

        try:
            return optuna.load_study(
                study_name="sweep", storage=self._storage(), sampler=sampler(self.sweep.seed, number)
            )
        except KeyError:
            raise RunError(f"{self.sweep.folder.journal} is not the journal of a search") from None


def sampler(seed: int, number: int) -> optuna.samplers.BaseSampler:
    """What chooses the parameters of one trial of a search.

    Each trial draws from numbers of its own, or tasks that start together would try one and the same point.
    """
    import optuna

    mixed = seed * 1_000_003 + number
    if mixed >= 1 << 32:  # more than the sampler's generator takes
        mixed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    return optuna.samplers.TPESampler(
        n_startup_trials=STARTUP, n_ei_candidates=CANDIDATES, seed=mixed, constant_liar=True
    )


def suggest(trial: optuna.Trial, parameter: Parameter) -> Any:
    """The parameter's value for a trial, as the trial's sampler chooses it."""
    key, low, high = parameter.first_key, parameter.low, parameter.high
    if parameter.kind == "constant":
        return parameter.values[0]
    if parameter.kind == "normal" or parameter.probabilities:
        # Optuna has neither: it searches the quantiles, which are drawn uniformly before it knows anything.
        quantile = trial.suggest_float(f"{key} quantile", 0.0, 1.0)
        if parameter.kind == "normal":
            return NormalDist(low, high).inv_cdf(min(max(quantile, 1e-9), 1 - 1e-9)) if high else low
        place = bisect.bisect_right(list(itertools.accumulate(parameter.probabilities))[:-1], quantile)
        return parameter.values[place]
    if parameter.kind == "categorical":
        # By its place: Optuna takes plain values alone.
        place = trial.suggest_categorical(key, tuple(range(len(parameter.values))))
        return parameter.values[int(place)]
    if parameter.kind == "int_uniform":
        return trial.suggest_int(key, int(low), int(high))
    return trial.suggest_float(key, low, high, log=parameter.kind == "log_uniform_values")


def _values_until(run: RunDir, epoch: int, metric: str) -> list[float]:
    """The metric of each epoch up to this one, NaN where it was none."""
    points = [p for p in iter_metrics(run.metrics, "val") if p["epoch"] <= epoch and metric in p]
    measured = {p["epoch"]: math.nan if p[metric] is None else float(p[metric]) for p in points}  # the file has no NaN
    if epoch not in measured:
        raise RunError(f"{run.metrics} has no {metric!r} of epoch {epoch}")
    return [measured[number] for number in sorted(measured)]


def _states() -> Any:
    from optuna.trial import TrialState

    return TrialState


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's notes on what it does and what is experimental in it."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="optuna")
        warnings.filterwarnings("ignore", message=".*experimental.*")
        yield
