"""A training on both nodes of a real Slurm: as one that nobody disturbs, though a node's processes die."""

import os
import re
import signal
from pathlib import Path

import pytest
from test_on_slurm import contents, longer, of

from couplet.files import read_json

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]


def of_node(number, job):
    """The processes of a job's task on the node of that number."""
    wanted = {f"SLURM_NODEID={number}", f"SLURM_JOB_ID={job}", "SLURM_STEP_NUM_NODES=2"}
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if wanted <= {*variables}:
            yield int(path.parent.name)


def two_nodes(site):
    """A training on two nodes, of which one dies, and the same undisturbed."""
    disturbed, calm = site("disturbed"), site("calm")
    for each in (disturbed, calm):
        each.clone.edit(longer(150))
        each.clone.edit(lambda params: params.update(nodes=2))
    beside, process = calm.begin("--until", "train"), disturbed.begin("--until", "train")
    disturbed.until("results/runs/*/train.partial/state-*")
    for number in of_node(1, disturbed.jobs()[0][0]):
        os.kill(number, signal.SIGKILL)
    return disturbed.end(process), disturbed.jobs(), calm.end(beside)


@of(two_nodes)
def test_a_training_on_two_nodes_survives_the_death_of_one(ended):
    done, jobs, calm = ended
    assert (done.code, calm.code) == (0, 0), done.said + calm.said
    assert [state for _, state, *_ in jobs] == ["FAILED", "COMPLETED"]
    log = done.one("logs/train/*.log").read_text()
    first, second = re.split(r"^== .*\n", log, flags=re.M)[1:]
    # What srun says of the killed task stands above.
    assert first.splitlines()[-1].startswith("couplet: ")
    assert "Traceback" not in first
    assert re.search(r"resumes after step \d+", second)
    assert contents(done.root) == contents(calm.root)
    record = read_json(done.one("results/runs/*/train/record.json"))
    assert (record["processes"], record["parallel"]) == (2, {"processes": 2})
