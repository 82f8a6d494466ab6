"""A command that lets a warm process run it; :mod:`couplet.cli.warm_process` is the other side.

Importing PyTorch takes two seconds of processor time, more than many a stage computes. A warm process has
imported it once and forks a copy of itself for each command. The copy takes over the command line, standard
streams and signals of the ``couplet`` that asked, which waits and ends as the copy ends.

Only a command whose process would begin like the warm one is run by it: same interpreter, code, folder,
limits and environment, which has the number of threads. Any other runs by itself, as all do without it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

NUMBER = struct.Struct("=i")
"""A reply: the copy's process number, when it begins; then how it ended, an exit code or minus a signal."""

LONGEST = 1 << 20
"""Bytes of a request, at most."""

PASSED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

VARIABLE = "COUPLET_WARM"
"""Environment variable with the address of the warm process; empty, if none is wanted."""

OWN = {"_", "SHLVL", "PWD", "OLDPWD", "TMPDIR", "TMP", "TEMP", "TEMPDIR", VARIABLE}
"""Environment variables that differ from job to job and that no import reads."""


def surroundings() -> dict[str, Any]:
    """What a Python process is given when it begins, as JSON can hold it."""
    umask = os.umask(0o077)
    os.umask(umask)
    limits = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
    files = ((path, path.stat()) for path in sorted(Path(__file__).parents[1].rglob("*.py")))
    return {
        "interpreter": [sys.prefix, sys.version, [*sys.flags]],  # one has several names
        "code": [[str(path), about.st_mtime_ns, about.st_size] for path, about in files],
        "folder": str(Path.cwd()),
        "environment": {name: value for name, value in os.environ.items() if name not in OWN},
        "limits": [resource.getrlimit(limit) for limit in limits],
        "umask": umask,
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "cores": sorted(os.sched_getaffinity(0)),
        "group": Path("/proc/self/cgroup").read_text(),
    }


def run_in_copy(address: str) -> None:
    """Let the warm process at the socket ``address`` run this command, and end as it ends.

    Returns without effect where that process is gone or does not run such a command.
    """
    request = {
        "surroundings": surroundings(),
        "arguments": sys.argv,
        "path": sys.path,
        "environment": dict(os.environ),
        "ignored": [number for number in PASSED_ON if signal.getsignal(number) is signal.SIG_IGN],
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as warm:
        try:
            warm.connect(address)
            socket.send_fds(warm, [json.dumps(request).encode()], [0, 1, 2])
            begun = warm.recv(NUMBER.size)
        except OSError:
            return
        if not begun:
            return
        (copy,) = NUMBER.unpack(begun)
        _pass_signals_to(copy)
        ended = warm.recv(NUMBER.size)
    if not ended:
        sys.exit(f"couplet: the warm process ended before process {copy}, which ran this command")
    (code,) = NUMBER.unpack(ended)
    if code < 0:  # a signal's number
        with suppress(OSError):  # SIGKILL, which has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _pass_signals_to(copy: int) -> None:
    """From now on, a process has the signals that this one gets; it stops and goes on with this one."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(copy, number)

    def stop(number: int, frame: FrameType | None) -> None:
        pass_on(signal.SIGSTOP, frame)
        os.kill(os.getpid(), signal.SIGSTOP)
        pass_on(signal.SIGCONT, frame)

    for number, handler in {**dict.fromkeys(PASSED_ON, pass_on), signal.SIGTSTP: stop}.items():
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
