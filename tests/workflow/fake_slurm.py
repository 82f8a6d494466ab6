"""Slurm's commands as the executor plugin calls them: `sbatch` runs the job here and then, and notes how.

Called as ``python fake_slurm.py FOLDER COMMAND ARGUMENTS...``; FOLDER holds calls.jsonl and a file per job.
"""

import json
import os
import subprocess
import sys
from pathlib import Path


def sbatch(folder, arguments):
    """Runs the job to its end; prints its number."""
    options = {"--wrap": ""}
    names = iter(arguments)
    for name in names:
        key, given, value = name.partition("=")
        options[key] = value if given or name == "--parsable" else next(names)
    with (folder / "calls.jsonl").open("a") as calls:
        print(json.dumps(options), file=calls)
    number = str(len((folder / "calls.jsonl").read_text().splitlines()))
    log = Path(options["--output"].replace("%j", number))
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "SLURM_JOB_ID": number, "SLURM_GPUS": options.get("--gpus", "")}
    with log.open("w") as output:
        done = subprocess.run(
            ["sh", "-c", options["--wrap"]],
            cwd=options["-D"],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    (folder / f"{number}.job").write_text("FAILED" if done.returncode else "COMPLETED")
    print(number)


def srun(folder, arguments):
    """Becomes the command after the options."""
    command = arguments[next(i for i, word in enumerate(arguments) if not word.startswith("-")) :]
    os.execvp(command[0], command)


def sacct(folder, arguments):
    """Every job's state; nothing about its steps."""
    if "-j" not in arguments:
        for path in folder.glob("*.job"):
            print(f"{path.stem}|{path.read_text()}")


def main():
    folder, name, arguments = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    if name == "sinfo":
        print("main*")
    elif name in ("sbatch", "srun", "sacct"):
        globals()[name](folder, arguments)


if __name__ == "__main__":
    main()
