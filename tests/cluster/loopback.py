"""A Slurm of two pretended nodes on this machine, without accounting; needs root and Debian's packages.

By hand: ``python loopback.py up FOLDER``, then what it prints; ``python loopback.py down FOLDER``. Its files
are all in FOLDER, so that a Slurm that is installed here, and another cluster like this one, are untouched.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
SYSTEM = "/usr/bin:/usr/local/bin"
NODES = ("n1", "n2")
CPUS = 8
MEMORY = 40_000  # MB

CONFIGURATION = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
PluginDir={plugins}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
SlurmdTimeout=20
KillWait=5
MinJobAge={min_job_age}
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0
GresTypes=gpu
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
# Slurm ends what has more memory than it asked for, without control groups; looked at every second.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
"""


class Cluster:
    """Files, daemons and environment of the cluster in a folder."""

    def __init__(self, folder: Path, gpus: int = 2, min_job_age: int = 300) -> None:
        """``gpus`` of each node; ``min_job_age``, seconds that Slurm knows a job that has ended."""
        self.folder, self.gpus, self.min_job_age = folder.absolute(), gpus, min_job_age
        self.environment = {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{self.folder}:{os.environ['PATH']}",
        }

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command of Slurm."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def call(self, *command: str) -> str:
        """What a command of Slurm prints; RuntimeError if it fails."""
        done = self._run(*command)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def up(self) -> None:
        """Start the daemons, and wait until both nodes take jobs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._start_munge()
        self._configure()
        self.start_controller()
        for node in NODES:
            self._daemon("slurmd", "-N", node)
        self._wait("nodes", "sh", "-c", f'test "$(sinfo -h -N -p main -t idle | wc -l)" = {len(NODES)}')

    def _configure(self) -> None:
        host = socket.gethostname().partition(".")[0]
        known = {
            "folder": self.folder,
            "host": host,
            "port": self._port(),
            "plugins": next(Path("/usr/lib").glob("**/slurm*/auth_munge.so")).parent,
            "min_job_age": self.min_job_age,
        }
        lines = [CONFIGURATION.format(**known)]
        (self.folder / "state").mkdir(exist_ok=True)
        # Snakemake's plugin for nodes keeps the name of the configuration from srun.
        srun = self.folder / "srun"
        conf = self.environment["SLURM_CONF"]
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={conf} exec {shutil.which("srun", path=SYSTEM)} "$@"\n')
        srun.chmod(0o755)
        # With File=, Slurm hands out indices and sets CUDA_VISIBLE_DEVICES, as with real GPUs.
        gpus = []
        for number, node in enumerate(NODES, 1):
            (self.folder / f"spool-{node}").mkdir(exist_ok=True)
            files = ",".join(("/dev/null", "/dev/zero")[: self.gpus])
            gpus += [f"NodeName={node} Name=gpu File={files}\n"] if files else []
            address = f"NodeHostname={host} NodeAddr=127.0.0.1 Port={self._port() + number}"
            size = f"CPUs={CPUS} CoresPerSocket={CPUS} RealMemory={MEMORY} "
            size += f" Gres=gpu:{self.gpus}" if self.gpus else ""
            lines.append(f"NodeName={node} {address} {size}\n")
        lines.append(f"PartitionName=main Nodes={','.join(NODES)} Default=YES DefaultTime=10\n")
        (self.folder / "gres.conf").write_text("".join(gpus))
        (self.folder / "slurm.conf").write_text("".join(lines))

    def _port(self) -> int:
        """The first of the ports: one that is the same in each call for this folder."""
        return 20_000 + 8 * (self.folder.stat().st_ino % 1000)

    def start_controller(self) -> None:
        """Start slurmctld, and wait until it answers."""
        self._daemon("slurmctld")
        self._wait("slurmctld", "scontrol", "ping")

    def stop_controller(self) -> None:
        """End slurmctld, as for an update; jobs go on."""
        self._stop(self.folder / "slurmctld.pid")

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        names = {
            "key-file": "key",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
            "socket": "socket",
        }
        files = [f"--{option}={self.folder}/munge.{end}" for option, end in names.items()]
        self._daemon("munged", "--force", *files)  # folders above may be writable for all, as /tmp is
        self._wait("munged", "munge", "-n", "--socket", f"{self.folder}/munge.socket")

    def _daemon(self, *command: str) -> None:
        """Start a program that goes to the background by itself."""
        with (self.folder / "start.log").open("a") as log:
            environment = {**os.environ, **self.environment}
            subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True
            )

    def _wait(self, what: str, *command: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while (done := self._run(*command)).returncode:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what}: no answer in {self.folder}: {done.stdout}{done.stderr}")
            time.sleep(0.1)

    def _stop(self, path: Path, seconds: float = 20) -> None:
        """End the process whose number a file holds."""
        with suppress(OSError, ValueError):
            number, deadline = int(path.read_text()), time.monotonic() + seconds
            os.kill(number, 15)
            while time.monotonic() < deadline:
                os.kill(number, 0)
                time.sleep(0.05)
            os.kill(number, 9)
        path.unlink(missing_ok=True)

    def down(self) -> None:
        """Cancel all jobs, end all daemons and remove the folder."""
        self._run("scancel", "--user", "root")
        deadline = time.monotonic() + 20
        while self._run("squeue", "-h").stdout and time.monotonic() < deadline:
            time.sleep(0.2)
        for name in (*(f"slurmd-{node}" for node in NODES), "slurmctld", "munge"):
            self._stop(self.folder / f"{name}.pid")
        shutil.rmtree(self.folder, ignore_errors=True)


def missing() -> str | None:
    """Why there can be no such cluster here, or None."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"no {', '.join(absent)}: Debian's packages slurm-wlm and munge are not installed"
    return "needs root, which starts daemons of its own" if os.geteuid() else None


def main() -> None:
    action, cluster = sys.argv[1], Cluster(Path(sys.argv[2]))
    if reason := missing():
        raise SystemExit(reason)
    getattr(cluster, {"up": "up", "down": "down"}[action])()
    if action == "up":
        print(*(f'export {name}="{value}"' for name, value in cluster.environment.items()), sep="\n")


if __name__ == "__main__":
    main()
