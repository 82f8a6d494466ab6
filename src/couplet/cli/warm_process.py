"""The warm process, which runs commands of ``couplet`` in copies of itself; see :mod:`couplet.cli.warm`."""

from __future__ import annotations

import atexit
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from select import select
from threading import Thread
from typing import Any, TextIO, cast

from couplet.cli.warm import LONGEST, NUMBER, PASSED_ON, VARIABLE, surroundings
from couplet.plan.code import definitions
from couplet.plan.stages import STAGES

IMPORTED = (
    *(f"couplet.stages.{stage}" for stage in ("train", "select", "sample", "evaluate", "probe")),
    *("couplet.cli.app", "couplet.live", "couplet.reporting.pictures", "numpy.random", "rich.progress"),
)
"""What most commands of a run import."""

DRAWING = ("couplet.stages.figure", "couplet.stages.table", "seaborn", "scipy.stats")
"""What tables and figures import besides, with Pandas."""

THREADS = (
    *("OMP_NUM_THREADS", "GOTO_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS"),
)
"""What Snakemake sets for a job to its number of threads."""

PROGRAM = """
import sys
sys.path = [*filter(None, sys.path)]  # without the working folder, where a file may be called like a module
from couplet.cli.warm_process import run, serve
serve(listening=int(sys.argv[1]), folder=sys.argv[2])
from couplet.cli.app import main
run(main)
"""


def start() -> None:
    """Start a warm process for jobs of one thread and name it in the environment; it ends with this process.

    Without effect where the environment names one, or by an empty ``COUPLET_WARM`` none, and where forking is
    not safe.
    """
    if sys.platform != "linux" or VARIABLE in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="couplet-")  # which no other user can enter
    address = f"{folder}/socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        try:
            listener.bind(address)
        except OSError:  # a path too long for a socket
            shutil.rmtree(folder)
            return
        listener.listen()
        end, _ = os.pipe()  # This process alone has the other end, and never closes it.
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(listener.fileno()), folder],
            stdin=end,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **dict.fromkeys(THREADS, "1")},
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
        os.close(end)
    os.environ[VARIABLE] = address


def serve(listening: int, folder: str) -> None:
    """Fork a copy for each command that asks, until standard input and all copies have ended.

    Returns in each copy, whose process is then as if it had begun with the command.
    """
    own = json.loads(json.dumps(surroundings()))
    atexit.register(_leave)  # The first to be registered is the last to be called.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    listener = socket.socket(fileno=listening)
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
            copy = _forked() if request.get("surroundings") == own else None
            if copy == 0:
                for other in (listener, woken, wake, *copies.values()):
                    other.close()
                _take_over(client, request, streams)
                return
            if copy is None:
                client.close()
            else:
                copies[copy] = client
            for stream in streams:
                os.close(stream)
    raise SystemExit


def run(main: Callable[[], None]) -> None:
    """Run a command in a copy."""
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, int):
            _code.append(end.code)
        raise


_code: list[int] = []
"""The exit code of this process, where it is a copy whose command has ended."""


def _leave() -> None:
    """End a copy without taking its memory apart, which takes longer than many a command."""
    if _code:
        sys.stdout.flush()
        os._exit(_code[0])


def _received(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A command and its standard streams; empty where the client is gone."""
    with suppress(OSError, ValueError):
        content, streams, _, _ = socket.recv_fds(client, LONGEST, 3)
        return json.loads(content), streams
    return {}, []


def _forked() -> int | None:
    """The process number of a new copy, 0 in it; None if there cannot be one."""
    _warm_up()
    # A copy has no other threads than that which forks, and may wait for them forever.
    if len([*Path("/proc/self/task").iterdir()]) == 1:
        with suppress(OSError):  # too little memory: the command may have more luck by itself
            return os.fork()
    return None


@cache
def _warm_up() -> None:
    """Import and read what commands need, once."""
    # Pandas imports pyarrow where that is installed, which starts a thread.
    for module in IMPORTED if find_spec("pyarrow") else (*IMPORTED, *DRAWING):
        with suppress(ImportError):  # on a machine that only trains
            import_module(module)
    # Every record names the code of its stage; what has been read of the code is kept.
    definitions(*(entry for stage in STAGES.values() for entry in stage.numerics))
    gc.collect()
    gc.freeze()  # Copies share the memory of what they do not change.


def _reap(copies: dict[int, socket.socket]) -> None:
    """Tell the command of each copy that has ended how it did."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            copy, status = ended
            with copies.pop(copy) as client, suppress(OSError):  # a command that is gone
                client.send(NUMBER.pack(os.waitstatus_to_exitcode(status)))


def _take_over(client: socket.socket, request: dict[str, Any], streams: list[int]) -> None:
    """Become the process that the command would be, until the command's own is gone."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in PASSED_ON:
        handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in request["ignored"] else handler)
    for standard, stream in enumerate(streams):
        os.dup2(stream, standard)
        os.close(stream)
    sys.stdin = _text(0, "r", sys.stdin)
    sys.stdout = _text(1, "w", sys.stdout)
    sys.stderr = _text(2, "w", sys.stderr, buffering=1)
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


def _text(number: int, mode: str, former: TextIO, buffering: int = -1) -> TextIO:
    """A standard stream as Python opens it when it starts."""
    encoding, errors = former.encoding, former.errors
    return cast(TextIO, os.fdopen(number, mode, buffering, encoding=encoding, errors=errors, closefd=False))
