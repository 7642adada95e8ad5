import threading

import pytest

from pipeline.acquire.pacing import Pacer, SourceClosed
from pipeline.config import DownloadSettings


class Clock:
    """Time that passes only in sleep."""

    def __init__(self):
        self.time = 1000.0

    def __call__(self):
        return self.time

    def sleep(self, seconds):
        self.time += seconds


def make(**settings):
    clock = Clock()
    return Pacer(DownloadSettings(**settings), clock, clock.sleep, lambda: 1.0), clock


def starts(pacer, clock, count, reason=None, source="s", work=0.0):
    """Times at which so many requests were let in, one after the other."""
    times = []
    for _ in range(count):
        since = pacer.enter(source)
        times.append(since - 1000)
        clock.time += work
        pacer.report(source, reason, since)
    return times


def test_without_limits_nothing_waits():
    pacer, clock = make()
    assert starts(pacer, clock, 5) == [0] * 5
    assert not pacer.state().paces["s"].slowed


def test_requests_per_second_holds_for_each_source():
    pacer, clock = make(requests_per_second=2.0)
    assert starts(pacer, clock, 4) == [0, 0.5, 1.0, 1.5]
    assert starts(pacer, clock, 2, source="other") == [1.5, 2.0]


def test_the_pace_of_late_is_told():
    pacer, clock = make()
    starts(pacer, clock, 20, work=0.5)
    starts(pacer, clock, 10, source="other", work=1.0)
    state = pacer.state()
    assert state.paces["other"].lately == pytest.approx(1.0)
    assert state.requests_per_second == pytest.approx(20 / 20 + 1.0)


def test_a_complaint_halves_the_pace_and_pauses_for_growing_times():
    pacer, clock = make(requests_per_second=4.0, pause=30.0)
    starts(pacer, clock, 1, "rate_limited")
    assert pacer.state().paces["s"].pause == 30 and "paused for 30 s" in pacer.state().paces["s"].describe()
    (second,) = starts(pacer, clock, 1, "bot_check")
    assert second == pytest.approx(30)
    third, fourth, fifth = starts(pacer, clock, 3)
    assert third == pytest.approx(30 + 60)
    # 4/s, halved twice, is 1/s; each success raises it by 3 %
    assert fourth - third == pytest.approx(1, abs=0.04) and fifth - fourth == pytest.approx(1 / 1.03, abs=0.04)


def test_success_raises_the_pace_slowly_up_to_the_limit():
    pacer, clock = make(requests_per_second=4.0, pause=1.0)
    starts(pacer, clock, 1, "rate_limited")
    starts(pacer, clock, 10)
    assert 2.0 < pacer.state().paces["s"].rate < 3.0
    starts(pacer, clock, 30)
    assert pacer.state().paces["s"].rate is None  # back at the limit


def test_an_unlimited_pace_is_halved_from_what_it_was():
    pacer, clock = make(pause=10.0)
    starts(pacer, clock, 20, work=0.1)
    starts(pacer, clock, 1, "rate_limited")
    assert pacer.state().paces["s"].rate == pytest.approx(5, rel=0.1)


def test_complaints_about_requests_from_before_the_pause_are_not_news():
    pacer, clock = make(pause=10.0)
    entered = [pacer.enter("s") for _ in range(4)]
    clock.time += 1
    for since in entered:
        pacer.report("s", "rate_limited", since)
    assert pacer.state().paces["s"].pause == 10


def test_retry_after_is_honoured():
    pacer, _ = make(pause=1.0)
    pacer.report("s", "rate_limited", pacer.enter("s"), retry_after=300.0)
    assert pacer.enter("s") == pytest.approx(1300)


def test_a_source_that_only_complains_is_given_up_and_others_are_not():
    pacer, clock = make(pause=1.0, give_up_after_pauses=3)
    starts(pacer, clock, 4, "bot_check")
    with pytest.raises(SourceClosed, match="s is not asked any more: it only answers bot_check"):
        pacer.enter("s")
    assert starts(pacer, clock, 1, source="other")
    assert pacer.state().paces["s"].describe() == "given up (bot_check)"


def test_a_success_between_keeps_it():
    pacer, clock = make(pause=1.0, give_up_after_pauses=3, give_up_after=3)
    for _ in range(5):
        starts(pacer, clock, 2, "rate_limited")
        starts(pacer, clock, 2, "network")
        starts(pacer, clock, 1)
    for _ in range(5):
        starts(pacer, clock, 2, "network")
        starts(pacer, clock, 1, "removed")  # an answer as well
    assert pacer.state().paces["s"].closed is None
    starts(pacer, clock, 3, "network")
    with pytest.raises(SourceClosed):
        pacer.enter("s")


def test_that_other_videos_are_gone_does_not_end_a_block():
    pacer, clock = make(pause=1.0, give_up_after_pauses=3)
    for _ in range(3):
        starts(pacer, clock, 1, "bot_check")
        starts(pacer, clock, 2, "removed")
    assert pacer.state().paces["s"].closed is None
    starts(pacer, clock, 1, "bot_check")
    assert pacer.state().paces["s"].closed == "bot_check"


def test_a_source_that_offers_no_video_any_format_is_given_up():
    pacer, clock = make(give_up_after=3)
    starts(pacer, clock, 3, "no_formats")  # as where yt-dlp is too old for the site
    with pytest.raises(SourceClosed, match="only answers no_formats"):
        pacer.enter("s")


def test_each_request_of_a_video_counts():
    pacer, clock = make(requests_per_second=2.0)
    for _ in range(2):
        pacer.enter("s")
        for _ in range(5):
            pacer.request()
    assert clock.time - 1000 == pytest.approx(4.5, abs=0.11)


def test_those_who_wait_are_let_in_one_by_one_after_a_pause():
    pacer = Pacer(DownloadSettings(pause=0.2, requests_per_second=20.0), jitter=lambda: 1.0)
    first = pacer.enter("s")
    pacer.report("s", "rate_limited", first)
    entered = []
    threads = [threading.Thread(target=lambda: entered.append(pacer.enter("s"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entered.sort()
    assert all(at - first >= 0.2 + 0.1 * number - 1e-6 for number, at in enumerate(entered))


def test_megabytes_per_second():
    pacer, clock = make(megabytes_per_second=1.0)
    for _ in range(50):
        pacer.take(100_000)
    assert clock.time - 1000 == pytest.approx(5, abs=0.11)
    assert pacer.state().bytes == 5_000_000
