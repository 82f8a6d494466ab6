"""A clone on a cluster, and what a Snakemake does there."""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import loopback

from clones import Clone

SECONDS = 900
"""Time that a run may take; each takes a minute or two."""


class Ended(NamedTuple):
    """How a run of Snakemake ended."""

    code: int
    said: str
    root: Path

    def one(self, pattern):
        """The only file of that name."""
        [path] = self.root.glob(pattern)
        return path

    @property
    def last_screen(self):
        """What couplet says in the end."""
        return self.said[self.said.index("\ncouplet: ") + 1 :]


class Site:
    """A clone on a cluster, with a data set prepared."""

    def __init__(self, root, cluster):
        self.clone, self.root, self.cluster = Clone(root), root, cluster

    def begin(self, *options, slurm=True, **environment):
        """A Snakemake of the profile, in the background."""
        command = ["snakemake", "results/table1.csv", "--workflow-profile", "workflow/profiles/slurm"]
        own = str(Path(sys.executable).parent)
        path = [str(self.root / "bin"), own, os.environ["PATH"]]
        known = self.cluster.environment if slurm else {}
        environment = {
            **os.environ,
            **known,
            "PATH": os.pathsep.join([*([str(self.cluster.folder)] if slurm else []), *path]),
            "PYTHONPATH": os.pathsep.join([str(self.root / "src"), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
            "DVC_NO_ANALYTICS": "1",
            **environment,
        }
        with (self.root / "said").open("w") as said:
            return subprocess.Popen(
                [*command, "--slurm-init-seconds-before-status-checks", "1", *options],
                cwd=self.root,
                env=environment,
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    def end(self, process):
        """Wait for it, but not for ever."""
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"waits for ever:\n{(self.root / 'said').read_text()}") from None
        return Ended(process.returncode, (self.root / "said").read_text(), self.root)

    def run(self, *options, **environment):
        return self.end(self.begin(*options, **environment))

    def until(self, pattern, seconds=SECONDS):
        """The first file of that name, as soon as there is one."""
        deadline = time.monotonic() + seconds
        while not (found := sorted(self.root.glob(pattern))):
            assert time.monotonic() < deadline, f"no {pattern}:\n{(self.root / 'said').read_text()}"
            time.sleep(0.1)
        return found[0]

    def jobs(self):
        """What Slurm knows of the jobs, in their order: number, state, memory, GPUs."""
        columns = "JobID:20,State:20,MinMemory:20,tres-per-job:20,WorkDir:300"
        lines = self.cluster.call("squeue", "-h", "--states=all", "--sort=i", "-O", columns).splitlines()
        own = (line for line in lines if line[80:].strip() == str(self.root))
        return [tuple(line[at : at + 20].strip() for at in range(0, 80, 20)) for line in own]

    def instead_of_couplet(self, script):
        """Put a shell script in the place of the command `couplet`, which is $couplet in it."""
        real = Path(sys.executable).with_name("couplet")
        (self.root / "bin").mkdir()
        (self.root / "bin/couplet").write_text(f"#!/bin/sh\ncouplet={real}\n{script}\n")
        (self.root / "bin/couplet").chmod(0o755)


@contextmanager
def running(**settings):
    """A cluster that ends with the block; its folder has a short path, because sockets need one."""
    cluster = loopback.Cluster(Path(tempfile.mkdtemp(prefix="slurm-")), **settings)
    cluster.folder.chmod(0o755)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()
