"""Notes what the processor time of a Python process is spent on; Python imports a file of this name first.

Every 20 ms of processor time, the time since the last note goes to the innermost known part of the call
stack. The process, and each that is forked from it, leaves a file with its command and its parts in the
folder of the environment variable SAMPLED.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import time
from collections import Counter
from types import FrameType

EVERY = 0.02

PARTS = {
    "couplet/training/loop.py": "steps",
    "couplet/sampling.py": "sampling",
    "couplet/metrics/extractor/": "features",
    "couplet/metrics/": "metrics",
    "couplet/probes/": "probes",
}
"""Parts by the files in which their functions are; of two that fit, the first."""

spent = Counter[str]()
noted = 0.0


def part_of(frame: FrameType | None) -> str:
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith("<frozen importlib"):
            return "imports"
        _, package, within = code.co_filename.rpartition("couplet/")
        for begin, part in PARTS.items() if package and code.co_name != "<module>" else ():
            if (package + within).startswith(begin):
                return part
        frame = frame.f_back
    return "other"


def note(number: int, frame: FrameType | None) -> None:
    global noted
    now = time.process_time()
    spent[part_of(frame)] += now - noted
    noted = now


def begin() -> None:
    global noted
    spent.clear()
    noted = 0.0  # the start of the interpreter counts, as `other`
    atexit.unregister(end)
    atexit.register(end)
    signal.setitimer(signal.ITIMER_PROF, EVERY, EVERY)


def end() -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    spent["other"] += time.process_time() - noted
    with open(f"{os.environ['SAMPLED']}/{os.getpid()}-{time.monotonic_ns()}.json", "w") as file:  # noqa: PTH123
        json.dump({"command": sys.argv, "seconds": spent}, file)


if "SAMPLED" in os.environ:
    signal.signal(signal.SIGPROF, note)
    begin()
    os.register_at_fork(after_in_child=begin)
