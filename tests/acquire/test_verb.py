import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import ray_pool
from pipeline.acquire.layout import find_video
from pipeline.acquire.ledger import Ledger, LedgerRow
from pipeline.acquire.pacing import NodeState, PaceState
from pipeline.datasets.table import Manifest, write_manifest
from pipeline.demo.mirror import Fault, Mirror
from pipeline.download import describe_pace, main
from pipeline.errors import InputError
from pipeline.types import Video

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def manifest(tmp_path, corpus):
    write_manifest(tmp_path / "m.parquet", [Video(f"a{number}") for number in range(10)])
    return Manifest(tmp_path / "m.parquet")


def command(manifest, mirror, *options):
    folder = str(manifest.path.parent / "videos")
    template = mirror.url + "/{video_id}.mp4"
    quick = ("--recipe", "demo", "--download.backoff", "0.05", "--download.timeout", "2", "--download.pause", "0.1")
    return [
        *(sys.executable, "-m", "pipeline.download", str(manifest.path), "--videos", folder, "--template", template),
        *quick,
        *options,
    ]


@pytest.fixture(scope="module")
def shared_ray():
    """One Ray for all runs in this process; each verb would start and stop its own, which takes seconds."""
    ray_pool.start(num_cpus=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_pool, "stop", lambda: None)
        yield
    ray_pool.stop()


def download(manifest, mirror, capsys, *options):
    """Runs the verb in this process; returns the lines that it said."""
    main(command(manifest, mirror, *options)[3:])
    return capsys.readouterr().err.strip().splitlines()


def outcomes(manifest):
    return {video_id: row.reason or row.outcome for video_id, row in Ledger(manifest.ledger).latest("download").items()}


def whole(manifest, corpus):
    found = {path.stem: find_video(manifest.path.parent / "videos", path.stem) for path in corpus.iterdir()}
    assert all(path is None or path.read_bytes() == (corpus / path.name).read_bytes() for path in found.values())
    return {video_id for video_id, path in found.items() if path}


def test_a_run_and_its_reruns(manifest, corpus, shared_ray, capsys):
    faults = {
        "a1.mp4": Fault("status", status=404),
        "a2.mp4": Fault("cut", times=1, after=50_000),
        "a3.mp4": Fault("status", times=4),
        "a4.mp4": Fault("html"),
    }
    with Mirror(corpus, faults) as mirror:
        said = download(manifest, mirror, capsys, "--limit", "5")
        found = {"a0": "done", "a1": "not_found", "a2": "done", "a3": "network", "a4": "unsupported"}
        assert outcomes(manifest) == found
        assert said[-1].startswith("download: 2 done, 3 failed (")
        assert "the same command tries 1 again" in said[-1] and "before: 0 done, 0 failed" in said[-1]
        before = mirror.requests.copy()
        said = download(manifest, mirror, capsys)
        asked = mirror.requests - before
        assert set(asked) == {f"a{number}.mp4" for number in (3, 5, 6, 7, 8, 9)}
        assert "6 done, 0 failed" in said[-1] and "before: 2 done, 2 failed" in said[-1]
        before = mirror.requests.copy()
        said = download(manifest, mirror, capsys)
        assert "nothing to do; before: 8 done, 2 failed" in said[-1] and mirror.requests == before
        mirror.faults.clear()
        said = download(manifest, mirror, capsys, "--retry", "not_found")
        assert set(mirror.requests - before) == {"a1.mp4"} and outcomes(manifest)["a1"] == "done"
    assert whole(manifest, corpus) == {f"a{number}" for number in (0, 1, 2, 3, 5, 6, 7, 8, 9)}


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_goes_on(manifest, corpus, kind, shared_ray, capsys):
    slow = {f"a{number}.mp4": Fault("drip", times=1, after=5000, seconds=0.15) for number in range(4, 10)}
    with Mirror(corpus, slow) as mirror:
        process = subprocess.Popen(
            command(manifest, mirror, "--download.concurrency", "2"),
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        deadline = time.monotonic() + 30
        while len(whole(manifest, corpus)) < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(process.pid, kind)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 130, signal.SIGKILL: -9}[kind]
        if kind != signal.SIGKILL:
            assert "the same command continues" in said and "Traceback" not in said
            assert len(outcomes(manifest)) >= 4
        assert len(whole(manifest, corpus)) < 10
        mirror.faults.clear()
        said = download(manifest, mirror, capsys)
        assert outcomes(manifest) == {f"a{number}": "done" for number in range(10)}
        assert len(whole(manifest, corpus)) == 10
        assert mirror.bytes_sent <= 1.15 * sum(path.stat().st_size for path in corpus.iterdir())


def test_the_pace_of_all_nodes_and_of_the_slowest():
    def node(host, *rates):
        return NodeState(host, 0, {f"s{n}": PaceState(None, 0.0, None, rate) for n, rate in enumerate(rates)})

    assert describe_pace([]) == ""
    assert describe_pace([node("a", 1.5, 1.0)]) == "2.5 requests/s"
    many = [node("a", 4.0), node("b", 0.5), node("c", 1.0), node("d", 2.0)]
    assert describe_pace(many) == "7.5 requests/s from 4 nodes (b 0.5, c 1, d 2, ...)"


def test_what_vanished_from_the_folder_is_said_and_fetched_when_asked(manifest, corpus, shared_ray, capsys):
    with Mirror(corpus) as mirror:
        download(manifest, mirror, capsys)
        for lost in ("a3", "a7"):
            find_video(manifest.path.parent / "videos", lost).unlink()
        # run deletes what is extracted
        Ledger(manifest.ledger).append([LedgerRow("a7", "extract", "done")])
        before = mirror.requests.copy()
        said = download(manifest, mirror, capsys)
        assert "1 of the done are neither in" in said[-1] and "(such as a3): --retry vanished" in said[-1]
        assert mirror.requests == before
        said = download(manifest, mirror, capsys, "--retry", "vanished")
        assert "1 done, 0 failed" in said[-1] and set(mirror.requests - before) == {"a3.mp4"}
    assert whole(manifest, corpus) == {f"a{number}" for number in range(10) if number != 7}


def test_a_list_of_which_nothing_can_be_had_is_an_error(manifest, corpus, shared_ray, capsys):
    with Mirror(corpus, {f"a{number}.mp4": Fault("status", status=404) for number in range(10)}) as mirror:
        with pytest.raises(InputError, match=r"none of the 10 videos could be had: .*pipeline.status .*m.parquet"):
            download(manifest, mirror, capsys)
        assert set(outcomes(manifest).values()) == {"not_found"}
        download(manifest, mirror, capsys)  # nothing to do is none


def test_what_a_user_can_mend_is_said_before_anything_starts(manifest, corpus, capsys):
    with Mirror(corpus) as mirror:
        with pytest.raises(InputError, match="may hold"):
            download(manifest, mirror, capsys, "--template", mirror.url + "/{name}.mp4")
        manifest.path.unlink()
        with pytest.raises(InputError, match="there is no manifest"):
            download(manifest, mirror, capsys)
        assert not mirror.requests


def test_a_source_that_refuses_everything_is_given_up_and_said(manifest, corpus, shared_ray, capsys):
    with Mirror(corpus, login=("me", "secret")) as mirror:
        with pytest.raises(InputError, match="none of the 3 videos could be had"):
            download(manifest, mirror, capsys, "--download.give_up_after", "3", "--download.concurrency", "1")
        said = capsys.readouterr().err.strip().splitlines()
        assert not [line for line in said if "yt-dlp" in line]  # a wrong password has another cause
        assert mirror.requests.total() == 3 and set(outcomes(manifest).values()) == {"auth_failed"}
        assert "is not asked any more: it only answers auth_failed" in said[-2]
        assert "left for the next run: 7 videos of sources that are not asked any more" in said[-1]
        assert "0 done, 3 failed (auth_failed 3)" in said[-3]


def test_an_old_client_is_named_where_it_may_be_the_cause(manifest, corpus, shared_ray, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.acquire.session.version", lambda _: "2020.1.2")
    with Mirror(corpus, {"a0.mp4": Fault("status", status=403)}) as mirror:
        said = download(manifest, mirror, capsys, "--limit", "2")
    assert "1 done, 1 failed (forbidden 1)" in said[-2]
    assert said[-1].startswith("yt-dlp is ") and said[-1].endswith("pip install -U yt-dlp may help")


def test_the_caps_of_a_day_and_of_the_disk(manifest, corpus, shared_ray, capsys, video_file):
    two_files = str(1.5 * video_file.stat().st_size / 1e9)
    with Mirror(corpus) as mirror:
        daily = ("--download.daily_gigabytes", two_files, "--download.concurrency", "1")
        said = download(manifest, mirror, capsys, *daily)
        assert "2 done" in said[-2] and "in 24 hours" in said[-1]
        said = download(manifest, mirror, capsys, *daily)
        assert "nothing done" in said[-2] and "in 24 hours" in said[-1]
        said = download(manifest, mirror, capsys, "--download.min_free_gigabytes", "1e9")
        assert "nothing done" in said[-2] and "GB free" in said[-1]
        assert mirror.requests.total() == 2


def test_a_folder_that_cannot_be_written_ends_the_run(manifest, corpus, shared_ray, capsys):
    with Mirror(corpus) as mirror, pytest.raises(OSError) as caught:
        download(manifest, mirror, capsys, "--videos", "/sys/kernel", "--download.min_free_gigabytes", "0")
    assert caught.value.errno in (errno.EPERM, errno.EACCES, errno.EROFS) and "/sys/kernel/a" in caught.value.filename
    assert not mirror.requests and not outcomes(manifest)


def test_a_full_disk_ends_the_run_and_is_recorded(manifest, corpus, shared_ray, capsys):
    folder = manifest.path.parent / "videos" / "a0"
    folder.mkdir(parents=True)
    (folder / ".a0~.mp4.part").symlink_to("/dev/full")
    with Mirror(corpus) as mirror, pytest.raises(OSError) as caught:
        download(manifest, mirror, capsys, "--download.concurrency", "1")
    assert caught.value.errno == errno.ENOSPC
    assert outcomes(manifest) == {"a0": "disk_full"}


def test_a_source_that_is_down_keeps_no_video_of_others_back(tmp_path, corpus, shared_ray, capsys):
    with socket.socket() as unused:
        unused.bind(("127.0.0.2", 0))
        dead = f"http://127.0.0.2:{unused.getsockname()[1]}"
    with Mirror(corpus) as mirror:
        videos = [Video(f"gone{number}", f"{dead}/{number}.mp4") for number in range(8)]
        videos += [Video(f"a{number}", f"{mirror.url}/a{number}.mp4") for number in range(3)]
        write_manifest(tmp_path / "m.parquet", videos)
        mixed = Manifest(tmp_path / "m.parquet")
        said = download(mixed, mirror, capsys, "--download.give_up_after", "3", "--download.attempts", "1")
    found = outcomes(mixed)
    assert {video_id for video_id, outcome in found.items() if outcome == "done"} == {"a0", "a1", "a2"}
    assert any("127.0.0.2 is not asked any more" in line for line in said)
    left = 8 - sum(video_id.startswith("gone") for video_id in found)
    assert left >= 1 and any(f"{left} videos of sources that are not asked any more" in line for line in said)


def test_a_manifest_with_ids_twice_is_refused_before_anything_starts(manifest, corpus, capsys):
    table = pq.read_table(manifest.path)
    pq.write_table(pa.concat_tables([table, table]), manifest.path)
    with Mirror(corpus) as mirror, pytest.raises(InputError, match=r"lists 10 ids again: .*manifest merge"):
        download(manifest, mirror, capsys)
