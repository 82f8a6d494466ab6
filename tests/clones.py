"""A clone of the repository with a tiny grid, to run the engines in."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]


def tiny(params):
    """The repository's parameters at a size of seconds: two couplings, one seed, four steps."""
    params["table1"].update(couplings=["independent", "vae"], seeds=[0])
    params["recipes"]["ict"].update(steps=4, batch=8)
    params["recipes"]["ict"]["network"]["model_channels"] = 8
    params["features"]["classifier"].update(steps=4)
    params["train"].update(snapshots=2, log_every=1, save_every=2)
    params["select"].update(samples=80)
    params["sample"].update(samples=80)
    params["evaluate"]["metrics"]["kid"] = {"subsets": 2, "subset_size": 40}
    params["time"] = {"rounds": 6}
    params["probes"] = {"gradient": {"batches": 2}, "transport": {"pairs": 8}, "regulariser": {"pairs": 8}}
    return params


JOB = r"^(?:Job \d+: |localrule |rule )(\w+):? ?(.*)\n(?:    .*\n)*(?:Shell command: *(.*)\n)?"
"""A job in Snakemake's output: its message, or the rule of one that has none."""


class Planned(NamedTuple):
    """A job of a dry run."""

    rule: str
    name: str  # as the job's message has it
    command: str


class Clone:
    """A working copy with commands that return exit code and output."""

    def __init__(self, root, modules="src"):
        self.root = root
        self.modules = modules  # the folder in it with the code, which comes before other installations

    def run(self, *command, ok=True, **environment):
        # The interpreter's own scripts first: the tests need no activated environment.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        modules = [self.modules, environment.get("PYTHONPATH"), os.environ.get("PYTHONPATH")]
        done = subprocess.run(
            command,
            cwd=self.root,
            env={
                **os.environ,
                "PATH": path,
                "OMP_NUM_THREADS": "1",
                "DVC_NO_ANALYTICS": "1",
                **environment,
                "PYTHONPATH": os.pathsep.join(filter(None, modules)),
            },
            capture_output=True,
            text=True,
        )
        assert not ok or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def plan(self, *targets):
        """The jobs that Snakemake would run."""
        text = self.run("snakemake", "--dry-run", "--printshellcmds", *targets).stdout
        jobs = re.findall(JOB, text, re.M)
        assert bool(jobs) != ("Nothing to be done" in text), text
        return [Planned(*job) for job in jobs]

    def rules(self, *targets):
        """The rules of :meth:`plan`, sorted."""
        return sorted(job.rule for job in self.plan(*targets))

    @contextmanager
    def edited(self, *paths):
        """Inside, files may be edited, or new ones written; afterwards they are as before."""
        before = {self.root / path: (self.root / path).exists() for path in paths}
        contents = {path: path.read_bytes() for path, exists in before.items() if exists}
        try:
            yield [*before]
        finally:
            for path in before:
                if path in contents:
                    path.write_bytes(contents[path])
                else:
                    path.unlink(missing_ok=True)

    @contextmanager
    def with_params(self, change):
        """Inside, params.yaml is as ``change`` leaves its content."""
        with self.edited("params.yaml"):
            self.edit(change)
            yield

    def edit(self, change):
        """Rewrite params.yaml as ``change`` leaves its content."""
        path = self.root / "params.yaml"
        params = yaml.safe_load(path.read_text())
        change(params)
        path.write_text(yaml.safe_dump(params, sort_keys=False))


def clone_into(root):
    """A clone of the repository in a new folder: its code and workflow with the tiny grid, committed."""
    root.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in listed:
        if name.startswith(("tests/", "docs/")) or name.endswith((".dvc", "dvc.lock")):
            continue  # the lock and the .dvc files belong to the repository's own results
        if (REPOSITORY / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, root / name)
    made = Clone(root)
    made.edit(tiny)
    made.run("git", "init", "--quiet")
    made.run("git", "config", "user.email", "tests@example.org")
    made.run("git", "config", "user.name", "tests")
    made.run("git", "add", "--all")
    made.run("git", "commit", "--quiet", "--message", "tiny")
    return made
