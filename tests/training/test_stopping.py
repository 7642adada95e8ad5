import signal
from collections.abc import Iterator

import pytest

from pipeline.training import stopping
from pipeline.training.stopping import StopRequest


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    """What a shell starts in the background ignores Ctrl-C, and so do the tests there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_comes_twice_at_once_is_one_wish(number: int) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.signal is None
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert stop.signal == number
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_acts_and_a_second_sigterm_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_SAME", -1.0)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGTERM
