"""SIGTERM and the first Ctrl-C set a flag inside the `with` block, and only there."""

import os
import signal

import pytest

from genrec_jax.training import preemption


def test_a_signal_is_noticed_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with preemption.StopRequest() as stop:
        assert not stop.reached()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reached()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_program_can_ask_too():
    with preemption.StopRequest() as stop:
        stop.request()
        assert stop.reached()
        with pytest.raises(preemption.StopReached):
            stop.raise_if_reached()


def test_the_first_interrupt_asks_and_the_second_insists():
    before = signal.getsignal(signal.SIGINT)
    with preemption.StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.reached()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
