"""The warm process, which runs commands of ``couplet`` in copies of itself; see :mod:`couplet.cli.warm`."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib import import_module
from select import select
from threading import Thread
from typing import Any

from couplet.cli.warm import LONGEST, NUMBER, PASSED_ON, surroundings

IMPORTED = (
    *("couplet.cli.app", "couplet.live", "couplet.reporting.pictures"),
    *(f"couplet.stages.{stage}" for stage in ("train", "select", "sample", "evaluate", "probe")),
)
"""What is imported for the first command: what most commands of a run need. Pandas is not, as it starts a thread."""

THREADS = (
    *("OMP_NUM_THREADS", "GOTO_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS"),
)
"""What Snakemake sets for its jobs."""

PROGRAM = """
import sys
sys.path = [*filter(None, sys.path)]  # without the working folder, where a file may be called like a module
from couplet.cli.warm_process import serve
serve(listening=int(sys.argv[1]), folder=sys.argv[2])
from couplet.cli.app import main
main()
"""


def start() -> None:
    """Start a warm process for jobs of one thread that ends with this process, and name it in the environment.

    Without effect where the environment names one already, or by an empty ``COUPLET_WARM`` none, and where a
    process cannot be forked safely.
    """
    if sys.platform != "linux" or "COUPLET_WARM" in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="couplet-")  # which other users cannot enter
    address = f"{folder}/socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        try:
            listener.bind(address)
        except OSError:  # a path too long for a socket
            shutil.rmtree(folder)
            return
        listener.listen()
        ends, _ = os.pipe()  # This process alone has the other end, and never closes it.
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(listener.fileno()), folder],
            stdin=ends,
            stdout=subprocess.DEVNULL,
            stderr=None,
            env={**os.environ, **dict.fromkeys(THREADS, "1")},
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
        os.close(ends)
    os.environ["COUPLET_WARM"] = address


def serve(listening: int, folder: str) -> None:
    """Fork a copy for each command that asks, until standard input and the copies have ended.

    Returns in each copy, whose process is then as if it had begun with the command.
    """
    listener = socket.socket(fileno=listening)
    own = json.loads(json.dumps(surroundings()))
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    copies: dict[int, socket.socket] = {}
    served = [listener, sys.stdin]
    while served or copies:
        ready, _, _ = select([woken, *served], [], [])
        if woken in ready:
            woken.recv(4096)
            _reap(copies)
        if sys.stdin in ready:
            listener.close()
            shutil.rmtree(folder, ignore_errors=True)
            served = []
        elif listener in ready:
            client, _ = listener.accept()
            request, streams = _received(client)
            if request.get("surroundings") == own and _imported() and (copy := _fork()) is not None:
                if copy == 0:
                    for other in (listener, woken, wake, *copies.values()):
                        other.close()
                    _take_over(client, request, streams)
                    return
                copies[copy] = client
            else:
                client.close()
            for stream in streams:
                os.close(stream)
    raise SystemExit


def _received(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A command and its standard streams; empty where the client is gone."""
    with suppress(OSError, ValueError):
        content, streams, _, _ = socket.recv_fds(client, LONGEST, 3)
        return json.loads(content), streams
    return {}, []


def _imported() -> bool:
    """Import, the first time, what commands need; whether this process may be forked afterwards."""
    if not gc.get_freeze_count():
        for module in IMPORTED:
            with suppress(ImportError):  # on a machine that only trains
                import_module(module)
        gc.collect()
        gc.freeze()  # Copies share the memory of what they do not change.
    return len(os.listdir("/proc/self/task")) == 1


def _fork() -> int | None:
    with suppress(OSError):  # no memory or process number left: the command may have more luck by itself
        return os.fork()
    return None


def _reap(copies: dict[int, socket.socket]) -> None:
    """Tell how each copy that has ended did so."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            copy, status = ended
            with copies.pop(copy) as client, suppress(OSError):  # gone
                client.send(NUMBER.pack(os.waitstatus_to_exitcode(status)))


def _take_over(client: socket.socket, request: dict[str, Any], streams: list[int]) -> None:
    """Become the process that the command would have been, until that one is gone."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in PASSED_ON:
        handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in request["ignored"] else handler)
    for standard, stream in enumerate(streams):
        os.dup2(stream, standard)
        os.close(stream)
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())
    sys.argv, sys.path = request["arguments"], request["path"]
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None

    def watch() -> None:
        with suppress(OSError):
            client.recv(1)
        os.kill(os.getpid(), signal.SIGKILL)  # The command was killed.

    Thread(target=watch, daemon=True).start()
    with suppress(OSError):
        client.send(NUMBER.pack(os.getpid()))
