import pytest

from pipeline.acquire.transfer import Stopped, Transfer
from pipeline.config import DownloadSettings


class Line:
    """A transfer whose time is told by the test."""

    def __init__(self, **settings):
        self.time, self.pause = 0.0, 0.0
        settings = DownloadSettings(timeout=20.0, min_speed=1000.0, **settings)
        self.transfer = Transfer(settings, self._wait, lambda: self._wait(0), clock=lambda: self.time)

    def _wait(self, _):
        self.time += self.pause

    def come(self, seconds, done, name="x.mp4"):
        self.time += seconds
        self.transfer.on_progress({"filename": name, "downloaded_bytes": done, "total_bytes": 1_000_000})


def test_a_slow_transfer_is_given_up():
    line = Line()
    line.come(0, 100)
    line.come(15, 5_000)
    with pytest.raises(Stopped, match="min_speed"):
        line.come(10, 6_000)


def test_the_time_before_the_first_byte_is_not_the_transfer_s():
    line = Line()
    for name in ("pictures.mp4", "sound.m4a"):
        line.come(60, 100, name)  # a page, a challenge, a wait that the site wants
        line.come(15, 30_000, name)


def test_waits_to_keep_a_pace_are_not_the_server_s_fault():
    line = Line()
    line.come(0, 100)
    line.pause = 30.0
    for step in range(1, 5):
        line.transfer.before_request()
        line.come(1, 2_000 * step)


def test_a_track_that_was_there_makes_a_file_of_two_runs(tmp_path):
    (tmp_path / "sound.m4a").write_bytes(b"x")
    line = Line()
    line.transfer.begin([tmp_path / "sound.m4a"])
    line.come(0, 0, "pictures.mp4")
    assert not line.transfer.continued
    line.come(0, 0, "sound.m4a")
    assert line.transfer.continued
