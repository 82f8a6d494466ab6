"""What only a GPU can show, in one command that ends in nine minutes and needs no network.

    python benchmarks/gpu.py --out gpu --data cifar10.tar.xz --wheels wheels
    python benchmarks/gpu.py --out gpu --stages step ot --minutes 5
    python benchmarks/gpu.py --out gpu --device cpu --tiny     # the same stages on a CPU, in three minutes

The stages, in this order unless `--stages` names some:

    tests    every test that needs a GPU
    step     each coupling's step of GC's CIFAR-10 network: precisions, compiled or not, channels_last or not,
             against the plain step in float32 (`step.py`), with memory and FLOP utilisation
    ot       a step with minibatch OT of 1,024 images that a thread arranges ahead, and one within the step,
             against a step without OT
    loader   images per second of the loader (`loader.py`)
    sample   images per second of sampling (`sample.py`), and of Inception's features on top of it
    resume   a run from a saved state against the run that was not stopped
    train    CIFAR-10 with each coupling, at GC's scale `small`, for the time that is left

`--data` is an archive of `couplet prepare`, or images as it takes them, such as a tar of JPEG files. Without
it images are synthetic, and gpu.json says so. The folder `--out` gets gpu.json with commit, card, versions,
and the result of every part of every stage; curves.csv of the runs; and samples-COUPLING.png. Each stage has
a share of the time and lists the parts that it did not get to. Called again, the command takes only these: a
part counts as done for the same code, card, torch and images. It may be stopped at any moment (Ctrl-C,
SIGTERM). Exit code 75: the GPU is of no use to this process any more, and the next call continues.

A machine without network needs the packages that couplet needs and a few more. All that are missing are named
at once, with the command that downloads them on another machine into the folder for `--wheels`.
"""

from __future__ import annotations

import argparse
import atexit
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]

BESIDES = ("pytest", "lion-pytorch", "pillow", "torchvision", "clean-fid")
"""Requirements of pyproject.toml's extras that the stages have, too."""

ON_TORCH = {"lion-pytorch", "torchvision", "clean-fid"}
"""Packages to be downloaded without their requirements, since torch is there."""

PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
)

STAGES = ("tests", "step", "ot", "loader", "sample", "resume", "train")


def requirements() -> list[str]:
    """The requirements of couplet and of the stages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = {_name(text): text for texts in project["optional-dependencies"].values() for text in texts}
    return [*project["dependencies"], *(extra[name] for name in BESIDES)]


def lacking(wanted: Iterable[str]) -> list[str]:
    """Requirements, and theirs in turn, that the packages of this Python do not fulfil."""
    try:
        from packaging.requirements import Requirement
    except ModuleNotFoundError:
        from pip._vendor.packaging.requirements import Requirement  # type: ignore[assignment]
    left, seen, found = [*wanted], set(), []
    while left:
        text = left.pop(0)
        requirement = Requirement(text)
        if text in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(text)
        try:
            package = metadata.distribution(requirement.name)
        except metadata.PackageNotFoundError:
            found.append(f"{requirement.name}{requirement.specifier}")
            continue
        if not requirement.specifier.contains(package.version, prereleases=True):
            found.append(f"{requirement.name}{requirement.specifier} (there is {package.version})")
        elif (
            requirement.name != "torch"
        ):  # some builds of it leave the work of its requirements to the system
            left += package.requires or []
    return found


def download(missing: Iterable[str], folder: str = "wheels") -> str:
    """The command that downloads packages for this Python."""
    named = [text.partition(" ")[0] for text in missing]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    common = ["python", "-m", "pip", "download", "--dest", folder, "--only-binary", ":all:"]
    common += ["--python-version", python, *(part for name in PLATFORMS for part in ("--platform", name))]
    alone = [text for text in named if _name(text) in ON_TORCH]
    others = [text for text in named if _name(text) not in ON_TORCH]
    commands = [[*common, *others]] * bool(others) + [[*common, "--no-deps", *alone]] * bool(alone)
    return " && ".join(map(shlex.join, commands))


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0]


def add_wheels(folder: Path) -> None:
    """Install every wheel of a folder for this process and those that it starts."""
    wheels = sorted(map(str, folder.glob("*.whl")))
    if not wheels:
        sys.exit(f"error: --wheels {folder}: holds no wheel (*.whl)")
    site = tempfile.mkdtemp(prefix="couplet-site-")
    atexit.register(shutil.rmtree, site, ignore_errors=True)
    quiet = ["--quiet", "--disable-pip-version-check", "--no-compile", "--no-index", "--no-deps"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *quiet, "--target", site, *wheels], check=False
    )
    if done.returncode:
        sys.exit(f"error: --wheels {folder}: pip cannot install them, see above")
    _on_path(site)


def _on_path(folder: str) -> None:
    """Import from a folder first, here and in processes that are started from here."""
    sys.path.insert(0, folder)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))


def main() -> None:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), metavar="STAGE")
    parser.add_argument("--minutes", type=float, default=9.0, help="time of this call, all told")
    parser.add_argument("--data", type=Path, help="CIFAR-10: an archive, or images to make one from")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to use")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--threads", type=int, default=min(8, os.cpu_count() or 1), help="CPU threads")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes: shows that stages work")
    options = parser.parse_args()
    if options.wheels:
        add_wheels(options.wheels)
    if missing := lacking(requirements()):
        print(
            f"error: {sys.executable} lacks {', '.join(missing)}; give them in a folder of wheels, --wheels, "
            f"which a machine with network fills by\n    {download(missing)}",
            file=sys.stderr,
        )
        sys.exit(2)
    _on_path(str(ROOT / "src"))
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        import gpu_stages

        sys.exit(gpu_stages.run(options, ends=began + 60 * options.minutes))
    except KeyboardInterrupt:
        print("stopped; the same command continues from here", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
