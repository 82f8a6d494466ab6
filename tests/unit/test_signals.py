"""Signals during a run: they are noted, and their handlers restored afterwards."""

import os
import signal

import pytest

from couplet.process import signals

WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@pytest.fixture(autouse=True)
def default_handlers():
    """As at a terminal; in the background of a shell, SIGINT is ignored."""
    defaults = dict.fromkeys(WATCHED, signal.SIG_DFL) | {signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers():
    return [signal.getsignal(number) for number in WATCHED]


@pytest.mark.parametrize("number", WATCHED)
def test_first_signal_is_named_and_ends_nothing(number):
    before = handlers()
    with signals() as stopped_by:
        assert stopped_by() is None
        os.kill(os.getpid(), number)
        assert stopped_by() == number.name
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped_by() == number.name
    assert handlers() == before


def test_second_interrupt_acts_at_once():
    before = handlers()

    def interrupt_twice():
        with signals():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()
    assert handlers() == before


def test_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals() as stopped_by:
            os.kill(os.getpid(), signal.SIGINT)
            assert stopped_by() is None
            os.kill(os.getpid(), signal.SIGTERM)
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
