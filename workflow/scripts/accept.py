"""Accepts that the code gives what the code of a git revision gave; `make accept`, after a reformat.

From then on the code's digest in folders' names is the revision's: src/couplet/config/accepted.json, to be
committed, says so to every clone, and Snakemake finds its folders again. Stages of DVC of which nothing else
has changed are recorded as they are. The next edit counts again.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from couplet.config.sources import ACCEPTED, STAGE_SOURCES, digest_of_sources
from couplet.files import write_json

PACKAGE = Path("src/couplet")
ASK = """
import json
from couplet.config.sources import STAGE_SOURCES, code_of
print(json.dumps({stage: code_of(stage) for stage in STAGE_SOURCES}))
"""


def output_of(*command: str, **options: object) -> bytes:
    """What the command prints; it ends this one where it fails."""
    done = subprocess.run(command, check=False, capture_output=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(f"couplet: {' '.join(command[:3])}: {done.stderr.decode().strip()}")
    return bytes(done.stdout)


def codes_at(revision: str) -> dict[str, str]:
    """Every stage's code as the revision itself names it."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(output_of("git", "archive", revision, str(PACKAGE)))) as archive:
            archive.extractall(folder, filter="data")
        environment = {**os.environ, "PYTHONPATH": f"{folder}/src"}
        codes: dict[str, str] = json.loads(output_of(sys.executable, "-c", ASK, env=environment))
    return codes


def changed_in_code_only() -> list[str]:
    """DVC's stages of which files of the package have changed and nothing else."""
    stages = []
    for stage, changes in json.loads(output_of("dvc", "status", "--json")).items():
        files = [
            name
            for change in changes
            for kind, names in (change.items() if isinstance(change, dict) else [(change, {change: ""})])
            for name in (names if kind == "changed deps" else [kind])
        ]
        if all(Path(name).is_relative_to(PACKAGE) for name in files):
            stages.append(stage)
    return stages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("revision", nargs="?", default="HEAD", help="whose results are good still (HEAD)")
    arguments = parser.parse_args()
    before = codes_at(arguments.revision)
    now = {stage: digest_of_sources(stage) for stage in STAGE_SOURCES}
    changed = {stage: code for stage, code in now.items() if before.get(stage, code) != code}
    write_json(
        PACKAGE / ACCEPTED,
        {stage: {"digest": code, "stands_for": before[stage]} for stage, code in changed.items()},
    )
    if stages := changed_in_code_only():
        output_of("dvc", "commit", "--quiet", "--force", *stages)
    print(f"accepted: {', '.join(changed) or 'no stage has changed'}; DVC: {', '.join(stages) or 'nothing'}")


if __name__ == "__main__":
    main()
