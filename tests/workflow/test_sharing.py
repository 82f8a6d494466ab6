"""What Snakemake makes and what DVC keeps are the same, here, in a clone and on an S3 server."""

import hashlib
import re

import boto3
import pytest
from moto.server import ThreadedMotoServer

TABLE = "results/table1.csv"
KEYS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def grid(clone):
    """A finished grid of one cell."""
    clone.edit(lambda params: params["table1"].update(couplings=["independent"]))
    clone.run("git", "commit", "--quiet", "--all", "--message", "one cell")
    screen = clone.run("snakemake", "--cores", "2", TABLE).stdout
    assert re.search(r"results/table1.csv: 2 rows; .*\n\nNFE +Fréchet distance ↓ \(classifier\)", screen)
    assert re.search(r"to read +results/index.html *\n", screen)
    assert re.search(r"pictures +results/table1.figures *\n", screen)
    assert (clone.root / "results/index.html").samefile(clone.root / "results/table1.html")
    return clone


@pytest.fixture
def s3(monkeypatch):
    """The endpoint of a server on loopback with a bucket."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="results")
    yield endpoint
    server.stop()


def agree(clone):
    assert clone.rules(TABLE) == []
    assert "up to date" in clone.run("dvc", "--cd", "results", "status").stdout


def content(clone):
    return {
        str(path.relative_to(clone.root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (clone.root / "results").rglob("*")
        if path.is_file()
        and not path.is_symlink()
        and path.suffix != ".dvc"
        and not {".dvc", ".dvcignore", ".keys", ".snakemake_timestamp"} & {*path.parts}
    }


def test_results_are_recorded_and_git_keeps_small_files_only(grid):
    agree(grid)
    grid.edit(lambda params: params["evaluate"]["metrics"]["kid"].update(subsets=3))
    assert grid.rules(TABLE) == ["evaluate", "table"]
    grid.run("snakemake", "--cores", "2", TABLE)
    agree(grid)
    grid.run("git", "add", "--all")
    results = grid.root / "results"
    committed = set(grid.run("git", "ls-files", "results").stdout.split())
    shared = [
        path for kind in ("data", "features", "reference", "times") for path in results.glob(f"{kind}/*")
    ]
    paths = (*shared, *results.glob("runs/*/*"), *results.glob("table1.*"))
    files = {f"{path.relative_to(grid.root)}.dvc" for path in paths if path.suffix != ".dvc"}
    assert committed == {*files, "results/.dvcignore", "results/.dvc/config"}
    grid.run("git", "commit", "--quiet", "--message", "results")


def test_former_table_is_made_again_without_records_of_snakemake(grid):
    """A → B → A: Snakemake alone would keep B's table."""
    b = (grid.root / TABLE).read_bytes()
    grid.edit(lambda params: params["evaluate"]["metrics"]["kid"].update(subsets=2))
    grid.run("rm", "-r", ".snakemake")
    assert grid.rules(TABLE) == ["table"]
    grid.run("snakemake", "--cores", "1", TABLE)
    assert (grid.root / TABLE).read_bytes() != b
    agree(grid)
    # DVC puts B's table back, newer than everything.
    grid.run("git", "checkout", "--quiet", "results")
    grid.run("dvc", "--cd", "results", "checkout", "--quiet", "--force")
    assert (grid.root / TABLE).read_bytes() == b
    assert grid.rules(TABLE) == ["table"]
    # It is right at B's settings; only Snakemake's records are of A.
    grid.run("git", "checkout", "--quiet", "params.yaml")
    assert (grid.root / TABLE).read_bytes() == b


def test_experiment_deletes_nothing_of_the_grid(grid):
    """Neither what DVC stores, nor finished outputs that it does not store yet, nor unfinished ones."""
    for name in ("runs/new/train/record.json", "runs/new/train.partial/state", "gc.csv", "gc.record.json"):
        path = grid.root / "results" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("hours of work")
    # A table newer than the one that DVC stores: a run that was killed before it was recorded.
    (grid.root / TABLE).write_text("a newer table")
    before = content(grid)
    # DVC restores everything that it stores, then stops at the first stage.
    done = grid.run("dvc", "exp", "run", "-S", "coupling=vea", ok=False)
    assert "did you mean 'vae'" in done.stderr
    assert content(grid) == before
    grid.run("git", "checkout", "--quiet", ".")
    grid.run("rm", "-r", *(f"results/{name}" for name in ("runs/new", "gc.csv", "gc.record.json")))
    grid.run("dvc", "--cd", "results", "checkout", "--quiet", "--force")


def test_scale_has_files_of_its_own(grid):
    before = content(grid)
    [table] = [job for job in grid.plan("results/table1-smoke.csv") if job.rule == "table"]
    assert "--scale smoke" in table.command
    assert "--out results/table1-smoke.csv" in table.command
    assert content(grid) == before


def test_graph_of_the_experiment_fits_a_screen(grid):
    lines = grid.run("dvc", "dag").stdout.splitlines()
    assert max(map(len, lines)) <= 110
    assert len(lines) <= 50


def test_pushed_to_s3_wiped_and_pulled_every_byte_is_back(grid, s3):
    before = content(grid)
    grid.run("dvc", "--cd", "results", "remote", "add", "--default", "store", "s3://results/couplet")
    grid.run("dvc", "--cd", "results", "remote", "modify", "store", "endpointurl", s3)
    grid.run("dvc", "--cd", "results", "push")
    grid.run("git", "clean", "--quiet", "-dfX", "results")
    grid.run("rm", "-rf", ".dvc/cache", ".snakemake")
    assert content(grid) == {}
    grid.run("dvc", "--cd", "results", "pull")
    assert content(grid) == before
    agree(grid)
