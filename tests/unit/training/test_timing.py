"""Steps timed by turns, with a clock that is told what each training costs."""

import time

import pytest
import torch

from couplet.data.archive import Archive
from couplet.tensors import CPU
from couplet.training import timing
from couplet.training.timing import CLOCKS, STEPS, WARM_UP, step_times

COUPLINGS = ("independent", "ot", "vae", "generator")


@pytest.fixture
def trainings(make_training):
    return [make_training(coupling) for coupling in COUPLINGS]


@pytest.fixture
def archive(noise_archive, make_training, tmp_path):
    return Archive(noise_archive(tmp_path / "data", make_training().dataset))


@pytest.fixture
def taken(monkeypatch):
    """The couplings whose steps were taken, in order, with the number of the step."""
    taken, run = [], timing.run

    def noted(training, state, loader, **more):
        for progress in run(training, state, loader, **more):
            taken.append((training.cell.coupling, progress.step))
            yield progress

    monkeypatch.setattr(timing, "run", noted)
    return taken


def test_trainings_take_turns_in_alternating_order_without_the_first_step(trainings, archive, taken):
    timed, advanced = [], []

    def clock(work):
        before = len(taken)
        work()
        timed.append(taken[before:])
        return 0.5 + len(timed)

    pairs = [(training, None) for training in trainings]
    seconds = step_times(pairs, archive, CPU, rounds=3, clock=clock, advance=advanced.append)
    order = [*COUPLINGS, *reversed(COUPLINGS), *COUPLINGS]
    turn = range(1, WARM_UP + STEPS + 1)
    assert taken == [(coupling, step) for coupling in order for step in turn]
    assert timed == [[(coupling, step) for step in turn[WARM_UP:]] for coupling in order]
    assert seconds[0] == pytest.approx([(0.5 + turn) / STEPS for turn in (1, 8, 9)])
    assert seconds[3] == pytest.approx([(0.5 + turn) / STEPS for turn in (4, 5, 12)])
    assert advanced == [WARM_UP + STEPS] * 12


def test_a_training_shorter_than_a_turn_is_timed_too(make_training, archive):
    short = make_training(steps=1)
    (seconds,) = step_times([(short, None)], archive, CPU, rounds=2)
    assert len(seconds) == 2
    assert min(seconds) > 0


def test_a_frozen_predictor_costs_its_evaluations(make_training, archive):
    training = make_training(
        {"kind": "generator", "predictor": "frozen", "mu": 1.0}, frozen_from="model.safetensors"
    )
    frozen = timing.initial_state(make_training(), timing.shape_of(archive), CPU).model
    calls = []
    frozen.register_forward_hook(lambda *given: calls.append(1))
    step_times([(training, frozen)], archive, CPU, rounds=2, clock=lambda work: work() and 1.0)
    assert len(calls) == 2 * (WARM_UP + STEPS)


def test_cpu_clock_does_not_count_what_others_do():
    name, clock = CLOCKS["cpu"]
    assert name == "CPU time"
    assert clock(lambda: time.sleep(0.2)) < 0.1


def test_gpu_clock_waits_for_the_device_and_reads_its_events(monkeypatch):
    """With a device in torch's place, whose events are 250 ms apart."""
    said = []

    class Event:
        def __init__(self, *, enable_timing):
            assert enable_timing

        def record(self):
            said.append("event")

        def elapsed_time(self, end):
            return 250.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: said.append("wait"))
    assert CLOCKS["cuda"][1](lambda: said.append("work")) == 0.25
    assert said == ["wait", "event", "work", "event", "wait"]
