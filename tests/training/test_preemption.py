"""SIGTERM sets a flag inside the `with` block, and only there."""

import os
import signal

from genrec_jax.training import preemption


def test_a_signal_is_noticed_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with preemption.StopRequest() as stop:
        assert not stop.after_step(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.after_step(2)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_program_can_ask_too():
    with preemption.StopRequest() as stop:
        stop.request()
        assert stop.after_step(1)
