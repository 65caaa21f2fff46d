"""`--then collect,report` on Slurm: jobs that wait for the run's, and none where the run fails."""

from __future__ import annotations

import json

import pytest
from cluster_home import Workplace, read, until
from slurm_cluster import run

from fashion_dist.monitor import chain

pytestmark = pytest.mark.slurm


def test_links_wait_for_the_run_and_go_with_it(place: Workplace) -> None:
    said = place.launch("--debug", "--then", "collect,report", "--wait")
    assert said.status == 0, said.err
    folder = place.run()
    assert said.err.splitlines()[-1] == "then: collect done, report done"
    assert (folder / "submission" / "category.csv").is_file() and (folder / "report" / "index.html").is_file()
    jobs = [link.job for link in chain.read(folder)]
    assert len(set(jobs)) == 2 and read(folder / "job.json")["job"]["job_id"] not in {job.job_id for job in jobs if job}

    failing = ("optim.lr=1e30", "train.precision=fp32")
    fails = place.launch("--then", "collect", settings=failing)
    (other,) = [path for path in place.runs if path != folder]
    (link,) = chain.read(other)
    assert link.job is not None and json.loads(fails.out)["outcome"] == "submitted"
    asked = run("squeue", "--noheader", "--format=%E", "--jobs", link.job.job_id).stdout
    assert f"afterok:{read(other / 'job.json')['job']['job_id']}" in asked
    until(lambda: chain.line(other) == "collect did not begin", "Slurm has cancelled what waited for the run")
