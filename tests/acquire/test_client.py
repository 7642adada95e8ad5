import fcntl
import threading

import pytest

from pipeline.acquire.client import Downloader
from pipeline.acquire.layout import find_video, lock_path, unfinished_files, video_path
from pipeline.demo.mirror import Fault, Mirror
from pipeline.types import Video


@pytest.fixture
def fetch(tmp_path, corpus, quick):
    """Serves the corpus with faults of a0.mp4 and fetches a0; gives the row, the mirror and the waits."""

    def run(*faults, settings=quick, name="a0", url=None):
        waits = []
        with Mirror(corpus, {"a0.mp4": faults}) as mirror:
            settings.template = mirror.url + "/{video_id}.mp4"
            downloader = Downloader(settings, tmp_path / "videos", sleep=waits.append)
            row = downloader.fetch(Video(name, url and mirror.url + url))
            downloader.close()
        return row, mirror, waits

    return run


def files(tmp_path):
    return sorted(path.name for path in (tmp_path / "videos").rglob("*") if path.is_file())


def test_a_video_comes_whole_in_one_request(fetch, tmp_path, video_file):
    row, mirror, waits = fetch()
    assert (row.outcome, row.reason, row.attempts, row.video_id, row.stage) == ("done", None, 1, "a0", "download")
    path = video_path(tmp_path / "videos", "a0", "mp4")
    assert find_video(tmp_path / "videos", "a0") == path
    assert path.read_bytes() == video_file.read_bytes()
    assert row.bytes == path.stat().st_size == mirror.bytes_sent
    assert mirror.requests["a0.mp4"] == 1 and not waits and files(tmp_path) == ["a0.mp4"]


def test_what_is_there_is_not_asked_for_again(fetch, tmp_path):
    fetch()
    row, mirror, _ = fetch()
    assert (row.outcome, row.bytes, row.attempts) == ("done", 0, 0)
    assert not mirror.requests


def test_temporary_failures_are_tried_again_after_growing_jittered_waits(fetch, quick):
    quick.backoff = 8.0
    row, mirror, waits = fetch(Fault("status", times=3))
    assert (row.outcome, row.attempts, mirror.requests["a0.mp4"]) == ("done", 4, 4)
    assert [4 <= waits[0] <= 12, 8 <= waits[1] <= 24, 16 <= waits[2] <= 48] == [True] * 3


@pytest.mark.parametrize(
    ("fault", "reason", "requests"),
    [
        (Fault("status", status=404), "not_found", 1),
        (Fault("status", status=410), "not_found", 1),
        (Fault("status", status=401), "auth_failed", 1),
        (Fault("status", status=403), "forbidden", 4),
        (Fault("status", status=429), "rate_limited", 4),
        (Fault("status", status=500), "network", 4),
        (Fault("status", status=503), "network", 4),
        (Fault("status", status=416), "network", 8),  # yt-dlp asks once more, without a range, in each of four tries
        (Fault("status", status=429, retry_after="1"), "rate_limited", 2),
        (Fault("html"), "unsupported", 1),
        (Fault("flip", after=100), "corrupt", 1),
        (Fault("short", after=50_000), "corrupt", 1),
        (Fault("stall", after=1000, seconds=30), "timeout", 4),
        (Fault("cut", after=0), "network", 4),
    ],
    ids=lambda value: f"{value.kind}{value.status}" if isinstance(value, Fault) else str(value),
)
def test_each_fault_has_its_reason_and_number_of_requests(fetch, tmp_path, fault, reason, requests, quick):
    quick.timeout = 0.3 if fault.kind == "stall" else 5.0
    quick.attempts = 2 if fault.retry_after else 4  # which would take seconds
    row, mirror, _ = fetch(fault)
    assert (row.outcome, row.reason) == ("failed", reason), row.message
    assert mirror.requests["a0.mp4"] == requests
    assert row.message
    assert find_video(tmp_path / "videos", "a0") is None


def test_a_server_that_announces_too_much_is_found_out(fetch, tmp_path, video_file):
    row, _, _ = fetch(Fault("long", after=5000))
    assert (row.outcome, row.attempts) == ("done", 2)
    assert find_video(tmp_path / "videos", "a0").read_bytes() == video_file.read_bytes()


def test_an_address_that_is_banned_for_a_while_waits_and_goes_on(tmp_path, corpus, quick):
    quick.pause = 0.3
    with Mirror(corpus, ban_after=3, ban_seconds=0.2) as mirror:
        quick.template = mirror.url + "/{video_id}.mp4"
        downloader = Downloader(quick, tmp_path / "videos")
        rows = [downloader.fetch(Video(f"a{number}")) for number in range(10)]
    assert [row.outcome for row in rows] == ["done"] * 10
    assert mirror.requests.total() <= 10 + 2 * mirror.bans


def test_redirects_in_a_circle(fetch):
    row, _, _ = fetch(Fault("redirect"))
    assert (row.outcome, row.reason) == ("failed", "network"), row.message


def test_a_cut_file_is_continued_where_it_stopped(fetch, tmp_path, video_file):
    size = video_file.stat().st_size
    row, mirror, _ = fetch(Fault("cut", times=1, after=size // 2))
    assert (row.outcome, row.attempts) == ("done", 2)
    assert mirror.tally.log[1][2] == f"bytes={size // 2}-"  # not a byte twice
    assert find_video(tmp_path / "videos", "a0").read_bytes() == video_file.read_bytes()


def test_a_later_run_continues_what_an_earlier_one_left(fetch, tmp_path, video_file, quick):
    size = video_file.stat().st_size
    quick.attempts = 1
    row, first, _ = fetch(Fault("cut", after=size // 2))
    assert (row.outcome, row.reason) == ("failed", "network")
    assert [path.name for path in unfinished_files(tmp_path / "videos", "a0")] == [".a0~.mp4.part"]
    row, second, _ = fetch()
    assert row.outcome == "done" and first.bytes_sent + second.bytes_sent <= 1.15 * size
    assert row.bytes == second.bytes_sent
    assert files(tmp_path) == ["a0.mp4"]
    assert find_video(tmp_path / "videos", "a0").read_bytes() == video_file.read_bytes()


def test_a_server_without_ranges_sends_the_file_again(fetch, tmp_path, video_file):
    size = video_file.stat().st_size
    row, _, _ = fetch(Fault("cut", times=1, after=size // 2), Fault("no_ranges"))
    assert (row.outcome, row.attempts) == ("done", 2)
    assert find_video(tmp_path / "videos", "a0").read_bytes() == video_file.read_bytes()


def test_a_whole_part_file_whose_rename_was_prevented_is_taken(fetch, tmp_path, video_file):
    part = lock_path(tmp_path / "videos", "a0").with_name(".a0~.mp4.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(video_file.read_bytes())
    row, _, _ = fetch()
    assert row.outcome == "done", row.message
    assert find_video(tmp_path / "videos", "a0").read_bytes() == video_file.read_bytes()


def test_a_file_that_came_whole_but_was_not_checked_is_checked(fetch, tmp_path, video_file):
    unchecked = lock_path(tmp_path / "videos", "a0").with_name(".a0~.mp4")
    unchecked.parent.mkdir(parents=True)
    unchecked.write_bytes(video_file.read_bytes())
    row, mirror, _ = fetch()
    assert row.outcome == "done" and not mirror.requests and files(tmp_path) == ["a0.mp4"]
    unchecked.with_name("a0.mp4").unlink()
    unchecked.write_bytes(b"damaged")
    row, mirror, _ = fetch()
    assert row.outcome == "done" and mirror.requests["a0.mp4"] == 1 and files(tmp_path) == ["a0.mp4"]
    assert find_video(tmp_path / "videos", "a0").read_bytes() == video_file.read_bytes()


def test_a_part_of_another_file_is_dropped_and_the_file_fetched_once_more_whole(fetch, tmp_path, video_file):
    part = lock_path(tmp_path / "videos", "a0").with_name(".a0~.mp4.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 50_000)
    row, mirror, _ = fetch()
    assert (row.outcome, row.attempts, mirror.requests["a0.mp4"]) == ("done", 2, 2)
    assert find_video(tmp_path / "videos", "a0").read_bytes() == video_file.read_bytes()


def test_a_file_larger_than_announced_by_the_limit_stops_early(fetch, tmp_path, quick, video_file):
    quick.max_bytes = 20_000
    row, mirror, _ = fetch()
    assert (row.outcome, row.reason, mirror.requests["a0.mp4"]) == ("failed", "too_large", 1)
    assert files(tmp_path) == []


def test_a_drip_is_given_up(fetch, quick):
    quick.timeout, quick.attempts = 0.5, 1
    row, _, _ = fetch(Fault("drip", after=20, seconds=0.05))
    assert (row.outcome, row.reason) == ("failed", "timeout") and "min_speed" in row.message


def test_permanent_failures_leave_nothing_and_temporary_ones_their_part(fetch, tmp_path, quick):
    fetch(Fault("flip", after=100))
    assert files(tmp_path) == []
    quick.attempts = 1
    fetch(Fault("stall", after=50_000, seconds=30))
    assert files(tmp_path) == [".a0~.mp4.part"]


def test_a_page_without_a_video_is_unsupported(fetch, corpus):
    (corpus / "page").write_text("<html><body>Nothing to see.</body></html>")
    row, _, _ = fetch(url="/page")
    assert (row.outcome, row.reason) == ("failed", "unsupported")


def test_a_file_behind_a_url_that_does_not_look_like_one(fetch, corpus, tmp_path, video_file):
    (corpus / "watch").write_bytes(video_file.read_bytes())
    row, _, _ = fetch(url="/watch?v=a0")
    assert row.outcome == "done", row.message
    assert find_video(tmp_path / "videos", "a0").read_bytes() == video_file.read_bytes()


def test_a_name_with_signs_that_mean_something_to_yt_dlp_or_glob(tmp_path, corpus, quick, video_file):
    folder = tmp_path / "100% [of] %(id)s"
    with Mirror(corpus) as mirror:
        quick.template = mirror.url + "/{video_id}.mp4"
        (corpus / "-a.b_C.mp4").write_bytes(video_file.read_bytes())
        row = Downloader(quick, folder).fetch(Video("-a.b_C"))
    assert row.outcome == "done", row.message
    assert find_video(folder, "-a.b_C") == folder / "-a" / "-a.b_C.mp4"
    assert find_video(folder, "-a") is None


def test_a_full_disk_is_no_fault_of_the_video(fetch, tmp_path):
    part = lock_path(tmp_path / "videos", "a0").with_name(".a0~.mp4.part")
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    row, mirror, _ = fetch()
    assert (row.outcome, row.reason, mirror.requests["a0.mp4"]) == ("failed", "disk_full", 1)


def test_only_one_process_fetches_a_video(tmp_path, corpus, quick):
    lock = lock_path(tmp_path / "videos", "a0")
    lock.parent.mkdir(parents=True)
    with Mirror(corpus) as mirror:
        quick.template = mirror.url + "/{video_id}.mp4"
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            row = Downloader(quick, tmp_path / "videos", lock_wait=0.3).fetch(Video("a0"))
            assert (row.outcome, row.reason) == ("failed", "unknown") and not mirror.requests
            ending = threading.Timer(0.5, held.close)
            ending.start()
            row = Downloader(quick, tmp_path / "videos").fetch(Video("a0"))
            ending.join()
        assert row.outcome == "done"


def test_a_server_that_is_not_there(tmp_path, quick):
    quick.template, quick.attempts = "http://127.0.0.1:1/{video_id}.mp4", 2
    row = Downloader(quick, tmp_path).fetch(Video("a0"))
    assert (row.outcome, row.reason, row.attempts) == ("failed", "network", 2)
