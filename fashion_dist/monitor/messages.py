"""What commands say about a run: what became of a launch, how a followed run ended, and what to type next."""

from __future__ import annotations

import json

from fashion_dist import cli
from fashion_dist.cluster import placement
from fashion_dist.cluster.launcher import Launched, RunSpec
from fashion_dist.cluster.run_view import RunView, answers, duration, typed
from fashion_dist.monitor import disk
from fashion_dist.monitor.follow import follow
from fashion_dist.paths import RunDir


def of_launch(launched: Launched, plan: RunSpec) -> cli.Result:
    """What became of a launch."""
    run, job, view = launched.run, launched.job, launched.view
    data = {
        "run_id": run.run_id, "outcome": launched.outcome, "job": job.to_json() if job else None,
        "differs": {key: {"run": mine, "today": today} for key, (mine, today) in plan.differs.items()},
        "notes": list(plan.notes),
    }  # fmt: skip
    if launched.outcome == "done":
        return cli.Result(
            f"run {run.run_id} is done{_best(view)}; nothing was submitted (--fresh starts over beside it)",
            {"run folder": run.path},
            {**answers(run), "report": typed("report", run)},
            data,
        )
    where, takes = placement.told(plan.resources, plan.cluster), ""
    if launched.outcome == "active":
        state = view.state if view.is_active else f"{view.state}, but its job has not ended yet"
        headline = f"run {run.run_id} is {state}: {job}; nothing was submitted"
    else:
        again = f", attempt {launched.attempt}: it goes on from its last checkpoint" if launched.attempt > 1 else ""
        called = f" ({plan.name})" if plan.name else ""
        headline = f"submitted {job}: run {run.run_id}{called}, {where}{again}"
        takes = disk.needs(run.home, plan.config.task, plan.config.model.name)
    return cli.Result(
        headline,
        {"run folder": run.path, "logs": run.logs},
        {"follow": typed("status", run, "--watch"), "cancel": typed("status", run, "--cancel")},
        data,
        "\n".join(filter(None, [*(f"note: {note}" for note in plan.notes), differing(plan), takes])),
    )


def differing(plan: RunSpec) -> str:
    """Where the configuration that a run began with, and goes on with, differs from today's; empty where nowhere."""
    if not plan.differs:
        return ""
    told = [f"{key} {json.dumps(own)} ({json.dumps(today)})" for key, (own, today) in plan.differs.items()]
    return f"the run's own settings, with which it goes on, and today's where they differ: {', '.join(told)}"


def of_end(run: RunDir) -> cli.Result:
    """Follows the run to its end; the exit status is 0 only if it is done."""
    view = follow(run)
    data = {"run_id": run.run_id, "state": view.state, "best": view.progress.best, "detail": view.detail}
    if view.state == "done":
        return cli.Result(
            f"run {run.run_id} is done{_best(view)}",
            {"run folder": run.path},
            {**answers(run), "report": typed("report", run)},
            data,
        )
    words = (f": {view.detail}" if view.detail else "") + (f" ({view.hint})" if view.hint else "")
    return cli.Result(
        f"run {run.run_id} {view.state}{words}",
        {"run folder": run.path, **({"log": view.log} if view.log else {})},
        {"look": typed("status", run), "go on": typed("launch", run)},
        data,
        exit_status=cli.EXIT_FAILED,
    )


def _best(view: RunView) -> str:
    left = f", {duration(view.left_s)} left" if view.is_active and view.left_s is not None else ""
    return f", best {words}{left}" if (words := view.progress.best_words) else ""
