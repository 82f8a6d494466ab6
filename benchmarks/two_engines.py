"""Snakemake and DVC on a clone of the repository's last commit: do they agree, and what does sharing lose?

    python benchmarks/two_engines.py --json benchmarks/results/two_engines.json

A tiny grid (two couplings, two seeds, trainings of four steps) runs in temporary clones, with a folder and
with an S3 server on loopback as remotes. Every check is printed with its seconds; exit code 1 if one fails.
Needs what `pip install couplet[pipeline,s3,dev]` brings. Some minutes on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
TABLE = "results/table1.csv"
GRID = "workflow/dvc.yaml"
JOB = re.compile(r"^(?:local)?rule (\w+):", re.M)
CELL_RULES = ("train", "select", "sample", "evaluate")


def tiny(params: dict[str, Any]) -> None:
    """A grid of seconds."""
    params["table1"].update(couplings=["independent", "vae"], seeds=[0, 1])
    for recipe in params["recipes"].values():
        recipe.update(steps=4, batch=8)
        recipe["network"]["model_channels"] = 8
    params["features"]["classifier"].update(steps=4)
    params["train"].update(snapshots=2, log_every=1, save_every=2)
    params["select"].update(samples=80)
    params["sample"].update(samples=80)
    params["evaluate"].update(kid_subsets=2, kid_subset_size=40)


class Clone:
    """A working copy and its commands, which run the code that lies in it."""

    def __init__(self, origin: Path, root: Path) -> None:
        self.root = root
        subprocess.run(["git", "clone", "--quiet", str(origin), str(root)], check=True)
        for key, value in {"user.email": "nobody@example.org", "user.name": "two engines"}.items():
            self("git", "config", key, value)

    def __call__(self, *command: str, ok: bool = True, **environment: str) -> str:
        """What the command prints; AssertionError where it fails."""
        paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
        sources = ["src", *filter(None, [os.environ.get("PYTHONPATH")])]
        done = subprocess.run(
            command,
            cwd=self.root,
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "PATH": os.pathsep.join(paths),
                # Relative: in a queued experiment's folder it is the code that lies there.
                "PYTHONPATH": os.pathsep.join(sources),
                "OMP_NUM_THREADS": "1",
                **environment,
            },
        )
        assert not ok or done.returncode == 0, (
            f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}"
        )
        return done.stdout

    def make(self, target: str) -> str:
        """The Makefile's target, with this interpreter's environment taken for installed."""
        return self("make", "-o", f"{sys.prefix}/installed", f"VENV={sys.prefix}", target)

    def edit(self, change: Callable[[dict[str, Any]], None]) -> None:
        path = self.root / "params.yaml"
        params = yaml.safe_load(path.read_text())
        change(params)
        path.write_text(yaml.safe_dump(params, sort_keys=False))

    def commit(self) -> None:
        self("git", "add", "--all")
        self("git", "commit", "--quiet", "--message", "a commit", "--allow-empty")

    def plan(self) -> Counter[str]:
        """Snakemake's jobs by rule."""
        text = self("snakemake", "--dry-run", TABLE)
        jobs = Counter(JOB.findall(text))
        assert bool(jobs) != ("Nothing to be done" in text), text
        return jobs

    def runs_nothing(self, *target: str) -> None:
        text = self("dvc", "repro", *target)
        assert "Running stage" not in text, text

    def agree(self) -> None:
        """Neither engine has anything to do."""
        assert not self.plan()
        self.is_clean()
        self.runs_nothing(GRID)

    def is_clean(self) -> None:
        status = self("dvc", "status", "--recursive", "results", "workflow")
        assert "up to date" in status, status

    def files(self) -> dict[str, str]:
        """MD5 of every result, by path."""
        return {
            str(path.relative_to(self.root)): hashlib.md5(path.read_bytes()).hexdigest()
            for path in sorted((self.root / "results").rglob("*"))
            if path.is_file() and path.suffix != ".dvc" and path.name != ".snakemake_timestamp"
        }

    def cells_of(self, coupling: str) -> set[str]:
        """The folders of a coupling's cells, as this copy's code and parameters name them."""
        ask = (
            "import sys; from pathlib import Path; from couplet.config import Layout, read_params\n"
            "layout = Layout(read_params(Path('params.yaml')), Path('results'))\n"
            "print(*(layout.run(c).name for c in layout.params.cells() if c.coupling == sys.argv[1]))"
        )
        return set(self(sys.executable, "-c", ask, coupling).split())


class Checks:
    """Runs checks, prints and counts them."""

    def __init__(self) -> None:
        self.outcomes: list[dict[str, Any]] = []

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        began = time.perf_counter()
        problem = ""
        try:
            yield
        except AssertionError as error:
            problem = str(error) or "not so"
        seconds = time.perf_counter() - began
        self.outcomes.append({"check": what, "ok": not problem, "seconds": round(seconds, 1)})
        print(f"{'FAILED' if problem else 'ok':6} {seconds:6.1f} s  {what}", flush=True)
        if problem:
            print("\n".join(f"       {line}" for line in problem.splitlines()[-25:]), flush=True)


@contextmanager
def s3_bucket() -> Iterator[tuple[str, dict[str, str]]]:
    """The endpoint of an S3 server on loopback that has the bucket `results`, and its credentials."""
    import boto3
    from moto.server import ThreadedMotoServer

    credentials = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=credentials["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=credentials["AWS_SECRET_ACCESS_KEY"],
        ).create_bucket(Bucket="results")
        yield endpoint, {**credentials, "AWS_DEFAULT_REGION": "us-east-1"}
    finally:
        server.stop()


def wipe(clone: Clone) -> None:
    """Removes every result and DVC's cache; what git has stays."""
    clone("git", "clean", "--quiet", "-dfX", "results", "experiment")
    clone("rm", "-rf", ".dvc/cache", ".dvc/tmp", ".snakemake")
    assert not clone.files()


def check_grid(check: Checks, clone: Clone, remote: Path) -> None:
    clone.edit(tiny)
    clone.commit()
    with check("snakemake runs the grid"):
        clone("snakemake", "--cores", "2", TABLE)
        assert (clone.root / TABLE).exists()
    with check("dvc status is clean after it"):
        clone.is_clean()
    with check("git has only DVC's small files to keep"):
        clone("git", "add", "--all")
        new = clone("git", "diff", "--cached", "--name-only").split()
        assert all(name.endswith(".dvc") or name == "workflow/dvc.lock" for name in new), new
        # An archive, an extractor and its reference, each with its record; four cells; the table's stage.
        assert len(new) == 2 * 3 + 2 * 4 + 1, new
        clone.commit()
    with check("dvc push stores every file"):
        clone("dvc", "remote", "add", "--default", "store", str(remote))
        clone.commit()
        clone("dvc", "push")
        stored = {path.parent.name + path.name for path in remote.rglob("*") if path.is_file()}
        assert not (lost := {name for name, md5 in clone.files().items() if md5 not in stored}), lost
    with check("dvc repro of the grid runs nothing"):
        clone.agree()


def check_other_way(check: Checks, clone: Clone) -> None:
    with check("dvc repro of the grid, then snakemake -n has nothing to do"):
        clone.edit(tiny)
        clone.edit(lambda params: params["table1"].update(couplings=["independent"], seeds=[0]))
        clone.commit()
        assert "Running stage" in clone("dvc", "repro", GRID)
        clone.agree()


def check_fresh_clone(check: Checks, clone: Clone, origin: Clone) -> None:
    expected = origin.files()
    with check("fresh clone: make pull brings every file, table and figures among them"):
        clone.make("pull")
        assert clone.files() == expected
        assert TABLE in expected
        assert sum(name.startswith("results/table1.figures/") for name in expected) == 2
    with check("fresh clone: both engines have nothing to do"):
        clone.agree()
    with check("a comment in README re-runs nothing"):
        with (clone.root / "README.md").open("a") as file:
            file.write("\n<!-- A comment. -->\n")
        clone.agree()

    with check("a coupling's parameter: both engines run exactly its cells"):
        clone.edit(lambda params: params["couplings"]["vae"].update(kl_weight=11.0))
        cells = {**dict.fromkeys(CELL_RULES, 2), "table": 1}
        assert clone.plan() == cells
        text = clone("dvc", "repro", GRID)
        assert Counter(JOB.findall(text)) == cells, text
        assert set(re.findall(r"wildcards: run=([^,\s]+)", text)) == clone.cells_of("vae")
        clone.agree()
    with check("back to the former value, without Snakemake's records: the former table"):
        changed = clone.files()
        assert changed[TABLE] != expected[TABLE]
        clone.edit(lambda params: params["couplings"]["vae"].update(kl_weight=10.0))
        clone("rm", "-rf", ".snakemake")
        assert clone.plan() == {"table": 1}
        clone("snakemake", "--cores", "2", TABLE)
        assert clone.files()[TABLE] == expected[TABLE]
        clone.agree()

    formula = clone.root / "src/couplet/losses/distance.py"
    before = formula.read_text()
    with check("an edited formula: both engines would train everything"):
        formula.write_text(f"{before}\n# An edit.\n")
        assert clone.plan() == {**dict.fromkeys(CELL_RULES, 4), "table": 1}
        assert "src/couplet" in clone("dvc", "status", GRID)
    with check("make accept: both engines have nothing to do; the next edit counts again"):
        clone.make("accept")
        clone.agree()
        formula.write_text(f"{before}\n# Another edit.\n")
        assert clone.plan()["train"] == 4


def check_experiments(check: Checks, clone: Clone) -> None:
    with check("dvc repro runs the one experiment"):
        clone("dvc", "repro")
        clone.runs_nothing()
        clone.commit()
    unfinished = clone.root / "results/runs/unfinished/train.partial/state"
    unfinished.parent.mkdir(parents=True)
    unfinished.write_text("hours of work")
    (cell,) = sorted(clone.cells_of("vae"))[:1]
    # Whole, and not recorded yet.
    clone("cp", "-r", f"results/runs/{cell}/train", "results/runs/unfinished/train")
    before = clone.files()
    with check("dvc exp run -S coupling=vae runs from training on"):
        text = clone("dvc", "exp", "run", "--name", "vae", "--set-param", "coupling=vae")
        ran = re.findall(r"Running stage '(\w+)'", text)
        assert ran == ["check", *CELL_RULES], ran
    with check("dvc exp run -S recipe=ecm, in a folder of its own"):
        clone("dvc", "exp", "run", "--temp", "--name", "ecm", "--set-param", "recipe=ecm", "evaluate")
    with check("dvc exp run --queue with two couplings, dvc queue start -j 2"):
        clone("dvc", "exp", "run", "--queue", "--set-param", "coupling=ot,generator", "evaluate")
        # A worker that lives on, as DVC's sometimes do, must not hold the output that is waited for.
        clone("sh", "-c", "dvc queue start --jobs 2 > /dev/null 2>&1")
        deadline = time.monotonic() + 1800
        while re.search("Queued|Running", status := clone("dvc", "queue", "status")):
            assert time.monotonic() < deadline, status
            time.sleep(5)
        assert status.count("Success") == 2, status
        clone("dvc", "queue", "stop", "--kill", ok=False)
    with check("no experiment touched a file of the grid"):
        assert clone.files() == before
        clone.is_clean()
    with check("dvc exp show says what was changed and what came out"):
        shown = json.loads(clone("dvc", "exp", "show", "--json"))
        rows = [experiment["revs"][0] for experiment in shown[1]["experiments"]]
        found = {
            (row["data"]["params"]["params.yaml"]["data"]["recipe"], coupling_of(row))
            for row in rows
            if row["data"]["metrics"]["experiment/eval/metrics.json"]["data"]
        }
        # The first was applied to the working copy, so the second starts from it.
        assert found == {("ict", "vae"), ("ecm", "vae"), ("ict", "ot"), ("ict", "generator")}, found
        columns = [cell.strip() for cell in clone.make("experiments").splitlines()[0].split("|")][1:-1]
        metrics = [f"{metric}_classifier_nfe{nfe}" for metric in ("fd", "kid") for nfe in (1, 2)]
        assert columns == ["Experiment", *metrics, "recipe", "coupling"], columns
    with check("dvc exp diff and dvc plots diff compare two experiments"):
        difference = json.loads(clone("dvc", "exp", "diff", "--json", "HEAD", "vae"))
        assert difference["params"]["params.yaml"]["coupling"] == {"old": "independent", "new": "vae"}
        plots = json.loads(clone("dvc", "plots", "diff", "HEAD", "vae", "--json"))
        assert "loss and its parts" in plots["data"], list(plots["data"])
    with check("dvc exp apply, then dvc repro runs nothing"):
        clone("dvc", "exp", "apply", "ecm")
        clone.runs_nothing()
        assert clone.files() == before


def coupling_of(row: dict[str, Any]) -> str:
    return str(row["data"]["params"]["params.yaml"]["data"]["coupling"])


def check_s3(check: Checks, clone: Clone) -> None:
    expected = clone.files()
    with s3_bucket() as (endpoint, credentials):
        with check("S3: push"):
            clone("dvc", "remote", "add", "--default", "--force", "store", "s3://results/couplet")
            clone("dvc", "remote", "modify", "store", "endpointurl", endpoint)
            clone("dvc", "push", **credentials)
        with check("S3: wiped and pulled, every byte is back and nothing is to do"):
            wipe(clone)
            clone("dvc", "pull", "--recursive", "results", "workflow", **credentials)
            assert clone.files() == expected
            clone.agree()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the outcomes to FILE")
    arguments = parser.parse_args()
    check = Checks()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        remote = folder / "remote"
        first = Clone(REPOSITORY, folder / "first")
        check_grid(check, first, remote)
        check_other_way(check, Clone(REPOSITORY, folder / "other"))
        check_fresh_clone(check, Clone(first.root, folder / "fresh"), first)
        check_s3(check, first)
        check_experiments(check, first)
    failed = sum(not outcome["ok"] for outcome in check.outcomes)
    print(f"{len(check.outcomes)} checks, {failed} failed")
    if arguments.json:
        import report

        report.write(arguments.json, checks=check.outcomes)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
