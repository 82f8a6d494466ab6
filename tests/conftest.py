"""Shared fixtures: one thread, the command line, a run of a few milliseconds a step, a grid of two cells."""

import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from couplet import cli
from couplet.config.cells import Training
from couplet.config.params import Params
from couplet.data.archive import Archive, Source, Split, write
from couplet.plan.layout import Layout
from couplet.plan.stages import RUN, STAGES, Settings, record_of
from couplet.process import Context
from couplet.provenance.record import Recorder, archive_digests

PARAMS = Path(__file__).parents[1] / "params.yaml"

torch.set_num_threads(1)

# nohup and a shell's `make test &` ignore these, and so would all that the tests start and then stop;
# one with a handler is as usual there.
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda number, frame: None)


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers, alone and in any order."""
    torch.manual_seed(0)


@pytest.fixture
def params_content():
    """The content of the repository's params.yaml without its scales, to be edited at will."""
    content = yaml.safe_load(PARAMS.read_text())
    del content["scale"], content["scales"]
    return content


@pytest.fixture(scope="session")
def make_training():
    """Makes the settings of a tiny training on 8x8 images."""

    def make(coupling="independent", *, seed=0, kernel="ve", train=None, **recipe):
        settings = {"kind": coupling} if isinstance(coupling, str) else coupling
        if settings["kind"] in ("vae", "vae_generator"):
            settings = {"encoder": {"model_channels": 8}, **settings}
        network = {
            "kind": "ddpmpp",
            "model_channels": 8,
            "channel_mult": [1],
            "num_blocks": 1,
            "attn_resolutions": [],
        }
        return Training.model_validate(
            {
                "cell": {
                    "dataset": "digits",
                    "recipe": "tiny",
                    "kernel": kernel,
                    "coupling": settings["kind"],
                    "seed": seed,
                },
                "dataset": {"kind": "digits"},
                "recipe": {
                    "steps": 4,
                    "batch": 4,
                    "network": network,
                    "optimizer": {"kind": "radam", "lr": 1e-3},
                    "ema": {"kind": "warmup"},
                    **recipe,
                },
                "kernel": {"kind": kernel},
                "coupling": settings,
                "train": train or {},
            }
        )

    return make


@pytest.fixture(scope="session")
def noise_archive():
    """Writes a small archive of noise under the name `digits`, with the record of `couplet prepare`."""

    def make(folder, dataset, seed=0):
        rng = np.random.default_rng(seed)
        splits = {
            name: Split(rng.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8), np.arange(count) % 3)
            for name, count in (("train", 12), ("test", 6))
        }
        write(folder, "digits", Source("random", ("a", "b", "c"), splits))
        record = Recorder("prepare", Settings(dataset), folder, torch.device("cpu"), reads={})
        config = dataset.model_dump(mode="json")
        record.write(config=config, inputs={}, outputs=archive_digests(Archive(folder)))
        return folder

    return make


@pytest.fixture
def random_split():
    """Ten grey 8x8 images of noise in three classes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10, 8, 8, 1), dtype=np.uint8)
    return Split(images, np.arange(10, dtype=np.int64) % 3)


@pytest.fixture
def full_disk():
    """A context in which files may grow to 10 kB: a write beyond that fails, as on a full disk.

    Not for the whole test: the limit holds for pytest's own output too, which may be a longer file.
    """

    @contextmanager
    def limited():
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture
def couplet(monkeypatch, capsys):
    """Runs the command line; gives exit code, stdout and stderr."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["couplet", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return run


HOLD = """
import sys
from pathlib import Path
from couplet.files import locked

with locked(Path(sys.argv[1]), print):
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold():
    """A context in which another process holds a lock; left, it is killed and has no time to tidy up."""

    @contextmanager
    def holding(path):
        command = [sys.executable, "-c", HOLD, str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            try:
                yield process
            finally:
                process.kill()

    return holding


def small():
    """The content of the repository's file at the size of the grid here."""
    content = yaml.safe_load(PARAMS.read_text())
    del content["scale"], content["scales"]
    content["table1"] |= {"couplings": ["independent"], "seeds": [0, 1]}
    content["recipes"]["ict"] |= {"steps": 2, "batch": 4}
    content["recipes"]["ict"]["network"]["model_channels"] = 8
    content["features"]["classifier"] = {"steps": 2, "channels": [8, 8], "features": 8}
    content["train"] = {"snapshots": 2, "log_every": 1}
    content["time"] = {"rounds": 2}
    content["select"] = {"samples": 16}
    content["sample"] = {"samples": 16}
    content["evaluate"] = {"metrics": {"fd": {}, "kid": {"subsets": 2, "subset_size": 8}}}
    return content


@pytest.fixture
def study():
    """The section `study` of a parameter file, of the default figure."""
    return {
        "paper": "couplet",
        "result": "none",
        "title": "Nothing",
        "claim": "Nothing.",
        "source": "nobody",
        "order": 1,
        "figure": {"kind": "dots"},
    }


@pytest.fixture(scope="session")
def small_grid():
    """Makes the content of :func:`grid_content`, for fixtures of many tests."""
    return small


@pytest.fixture
def grid_content():
    """The parameters of the grid as a file has them, to be edited at will."""
    return small()


def run_stage(stage, settings, outputs, **more):
    """Run a stage on the outputs of the stages before it."""
    if stage == "prepare":
        more = {"name": "digits", **more}
    paths = {STAGES[read].option: outputs[read] for read in STAGES[stage].reads}
    run = import_module(f"couplet.stages.{stage}").run
    return run(Context(), settings, **{**paths, "out": outputs[stage], **more})


@pytest.fixture(scope="session")
def finish():
    """Runs every stage of the cells of a small grid, changed as given, and its table; gives the layout."""

    def timed(layout):
        for name, (cell, *_) in layout.timed().items():
            outputs = {stage: layout.output(stage, cell, name) for stage in ("prepare", "time")}
            run_stage("time", layout.timing(name), outputs)

    def finished(root, change=lambda content: content):
        layout = Layout(Params.model_validate(change(small())), root)
        for cell, extractor in layout.params.measured():
            outputs = layout.outputs(cell, extractor)
            for stage in RUN:
                if not record_of(stage, outputs[stage]).exists():
                    run_stage(stage, layout.settings(cell, extractor), outputs)
        timed(layout)
        import_module("couplet.stages.table").run(layout.params, root, root / "table1.csv")
        return layout

    return finished


@pytest.fixture(scope="session")
def made_grid(tmp_path_factory, finish):
    """Parameters of two seeds of one coupling, and the folder of their results with a table."""
    layout = finish(tmp_path_factory.mktemp("grid") / "results")
    return layout.params, layout.root


@pytest.fixture
def grid(made_grid, tmp_path, monkeypatch):
    """A copy of the grid below the working folder, with outputs and settings of its first cell."""
    params, made = made_grid
    monkeypatch.chdir(tmp_path)
    root = Path("results")
    shutil.copytree(made, root)
    layout = Layout(params, root)
    first, second = (cell for cell, _ in params.measured())
    outputs = layout.outputs(first, "classifier") | {"time": layout.times(first.dataset)}
    settings, timing = layout.settings(first, "classifier"), layout.timing(first.dataset)
    return SimpleNamespace(
        params=params,
        root=root,
        layout=layout,
        cells=(first, second),
        settings=settings._replace(timed=timing.timed, rounds=timing.rounds),
        outputs=outputs,
        records=layout.records(first, "classifier"),
        run_stage=run_stage,
        **{STAGES[stage].option: path for stage, path in outputs.items()},
    )
