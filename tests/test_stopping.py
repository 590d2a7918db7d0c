"""A signal ends a run in good order, wherever it arrives."""

import os
import signal

import pytest

from fedapt.stopping import Stopped, Stopper


def test_a_signal_is_put_off_while_it_is_held():
    done = []
    with pytest.raises(Stopped), Stopper() as stopper, stopper.held():
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("the block")
    assert done == ["the block"]


def test_a_stop_that_was_raised_is_not_raised_again():
    done = []
    with pytest.raises(Stopped), Stopper() as stopper:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            with stopper.held():
                done.append("what is written in the end")
            done.append("and after it")
    assert len(done) == 2


def test_a_signal_in_the_midst_of_compiled_code_is_a_stop_and_no_error():
    def returns_in_spite_of_an_exception():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigtimedwait([], 1)
        except Stopped as stopped:
            raise SystemError("<cyfunction wait> returned a result with an exception set") from stopped

    with pytest.raises(Stopped) as caught, Stopper():
        returns_in_spite_of_an_exception()
    assert caught.value.signal_number == signal.SIGINT


def test_another_system_error_stays_one():
    with pytest.raises(SystemError), Stopper():
        raise SystemError("of its own")
