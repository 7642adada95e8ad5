"""The extract verb's worker by itself, without Ray."""

import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest

from pipeline import ray_pool
from pipeline.acquire.layout import video_folder
from pipeline.acquire.ledger import Ledger, LedgerRow
from pipeline.acquire.tally import Tally
from pipeline.config import ClipSettings, ExtractSettings
from pipeline.datasets.table import Manifest, write_manifest
from pipeline.errors import InputError
from pipeline.extract import extract_all as extract_on_a_cluster
from pipeline.extract import main, prepare_words, row_to_keep
from pipeline.ray_pool import Node, Outcome
from pipeline.shards.decoding import decode_batch
from pipeline.shards.extraction import Job, Worker, job_of
from pipeline.shards.loader import TrainingLoader
from pipeline.shards.reader import ShardSet
from pipeline.shards.sample import to_8bit, to_decibels
from pipeline.shards.verify import verify
from pipeline.shards.writer import ShardWriter
from pipeline.text.words import WordVectors
from pipeline.types import Caption, Video
from tests.media.clips import H264, make, pictures, tone
from tests.shards.samples import small_sample

SETTINGS = ExtractSettings(video_2d="seeded_2d", video_3d="seeded_3d", batch_size=4)


def extract_all(
    folder: Path, jobs: list[Job], threads: int, settings: ExtractSettings = SETTINGS
) -> dict[str, dict[str, bytes]]:
    folder.mkdir()
    WordVectors(["flip", "it"], np.eye(2)).save(folder / "words.parquet")
    worker = Worker(settings, folder, "tiny", "w0", "cpu", 1)
    with ThreadPoolExecutor(threads) as pool:
        rows = list(pool.map(worker.extract, jobs))
    worker.close()
    assert rows[-1].recipe == settings.fingerprint()  # under others it may not fail
    assert [row.outcome for row in rows] == ["done"] * (len(jobs) - 1) + ["failed"]
    samples = ShardSet(folder)
    return {
        video_id: {key: array.tobytes() for key, array in samples.read(video_id).arrays.items()}
        for video_id in samples.ids
    }


def test_several_videos_at_once_give_what_they_give_one_by_one(tmp_path: Path) -> None:
    jobs = []
    for place, source in enumerate(("testsrc2", "rgbtestsrc", "smptebars", "testsrc")):
        clip = make(tmp_path / f"{source}.mp4", *pictures(3 + place, source=source), *tone(3 + place), *H264)
        jobs.append(Job(Video(source, captions=[Caption(0, 1, "now flip it")]), clip))
    (tmp_path / "page.mp4").write_text("<html>")
    jobs.append(Job(Video("page"), tmp_path / "page.mp4"))
    together = extract_all(tmp_path / "together", jobs, threads=4)
    assert together == extract_all(tmp_path / "alone", jobs, threads=1)
    assert set(together) == {job.video.video_id for job in jobs[:-1]}
    assert all(set(arrays) == {"2d", "3d", "audio", "text"} for arrays in together.values())


def test_a_machine_with_another_folder_of_videos_is_named_and_no_video_given_up_for_it(tmp_path: Path) -> None:
    job = Job(Video("v"), tmp_path / "v.mp4")
    row = LedgerRow("v", "extract", "failed", "not_found", f"{job.path}: no such file", host="node-7")
    for_now = replace(row, reason="unknown")
    sharing: set[str] = set()
    assert (
        row_to_keep(Outcome(job, result=row), sharing) == for_now
    )  # it is gone here too; tried again if it comes back
    job.path.touch()
    with pytest.raises(InputError, match=r"v\.mp4 is here, but not on node-7: .* same folder of videos"):
        row_to_keep(Outcome(job, result=row), sharing)
    # a machine that has found another one sees the folder: its file server is late
    row_to_keep(Outcome(job, result=LedgerRow("u", "extract", "done", host="node-7")), sharing)
    assert row_to_keep(Outcome(job, result=row), sharing) == for_now


def test_a_worker_without_the_folder_of_shards_says_on_which_machine(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"not there on {re.escape(socket.gethostname())}: .* same folder of shards"):
        Worker(SETTINGS, tmp_path / "shards", "tiny", "w0", "cpu", 1)


def test_a_gpu_that_ray_counts_and_pytorch_cannot_use_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "words.parquet").touch()
    with pytest.raises(InputError, match=r"Ray counts a GPU on .*, but PyTorch .* cannot use the NVIDIA GPU"):
        Worker(SETTINGS, tmp_path, "tiny", "w0", "cuda", 1)


def idle_pool(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """In place of Ray's actors, a pool of which none comes up."""
    pool = MagicMock()
    pool.return_value.configure_mock(flying=[], **{"run.return_value": [], "drain.return_value": []})
    monkeypatch.setattr(ray_pool, "ActorPool", pool)
    monkeypatch.setattr(ray_pool, "alive_nodes", lambda: [Node("1", "host", 2)])
    return pool


def test_what_a_writer_of_an_earlier_run_left_is_sealed_though_no_actor_of_its_name_came_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = ShardWriter(tmp_path, "tiny", "w001")
    earlier.add(small_sample("v"))
    earlier.abandon()
    idle_pool(monkeypatch)
    extract_on_a_cluster([], 2, Tally(Ledger(tmp_path / "m.ledger")), 2, tmp_path, "tiny", SETTINGS)
    assert set(ShardSet(tmp_path).ids) == {"v"}


def test_videos_go_to_no_other_while_the_machine_that_ray_gave_up_still_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = idle_pool(monkeypatch)
    monkeypatch.setattr("pipeline.extract.OUT_OF_REACH_SECONDS", 0.1)
    extract_on_a_cluster([], 2, Tally(Ledger(tmp_path / "m.ledger")), 2, tmp_path, "tiny", SETTINGS)
    counted = pool.call_args.kwargs["on_replaced"]
    out_of_reach = ShardWriter(tmp_path, "tiny", "w001")
    out_of_reach.add(small_sample("v"))
    with pytest.raises(InputError, match="another process is writing these shards"):
        counted(1, [])
    out_of_reach.abandon()
    assert counted(1, []) == {"v"}


def test_8bit_spectrograms_are_those_that_repacking_gives(tmp_path: Path) -> None:
    clip = make(tmp_path / "v.mp4", *pictures(3), *tone(3), *H264)
    (tmp_path / "page.mp4").write_text("<html>")
    jobs = [Job(Video("v"), clip), Job(Video("page"), tmp_path / "page.mp4")]
    exact = extract_all(tmp_path / "float16", jobs, threads=1)["v"]
    small = extract_all(tmp_path / "8bit", jobs, threads=1, settings=replace(SETTINGS, audio_dtype="8bit"))["v"]
    assert small.pop("audio") == to_8bit(np.frombuffer(exact.pop("audio"), np.float16)).tobytes()
    assert small == exact
    assert verify(tmp_path / "8bit").problems == []
    whole = ShardSet(tmp_path / "8bit").read("v").arrays["audio"]
    (batch,) = TrainingLoader(ShardSet(tmp_path / "8bit"), ClipSettings(per_video=1), batch_videos=1, seed=1)
    frames = decode_batch(batch)["audio"][0, :, : int(batch["audio_nframes"][0])].T
    assert len(frames) > 250
    np.testing.assert_array_equal(frames, to_decibels(whole, np.float32)[: len(frames)])


def test_half_a_surrogate_pair_in_fetched_captions_costs_a_character(tmp_path: Path) -> None:
    clip = make(tmp_path / "v.mp4", *pictures(1), *H264)
    events = [{"tStartMs": 0, "dDurationMs": 900, "segs": [{"utf8": "flip \ud83d it"}]}]
    video_folder(tmp_path, "v").mkdir()
    (video_folder(tmp_path, "v") / "v.en.json3").write_text(json.dumps({"events": events}))
    (tmp_path / "shards").mkdir()
    WordVectors(["flip", "it"], np.eye(2)).save(tmp_path / "shards" / "words.parquet")
    worker = Worker(SETTINGS, tmp_path / "shards", "tiny", "w0", "cpu", 1)
    assert worker.extract(job_of(Video("v"), clip, tmp_path)).outcome == "done"
    worker.close()
    sample = ShardSet(tmp_path / "shards").read("v")
    assert sample.captions == [Caption(0.0, 0.9, "flip \ufffd it")]
    assert sample.arrays["text"].tolist() == [0, 1]


def test_captions_as_clips_pieces(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    clip = make(tmp_path / "v.mp4", *pictures(1), *H264)
    write_manifest(
        tmp_path / "m.parquet", [video := Video("v", captions=[Caption(0, 1, "flip"), Caption(1, 2, "it!")])]
    )
    settings = replace(SETTINGS, words="clip", audio=False)
    assert settings.fingerprint() != replace(settings, words="corpus").fingerprint()
    for _ in range(2):
        prepare_words(tmp_path, Manifest(tmp_path / "m.parquet"), settings)
    worker = Worker(settings, tmp_path, "tiny", "w0", "cpu", 1)
    assert worker.extract(Job(video, clip)).outcome == "done"
    worker.close()
    sample = ShardSet(tmp_path).read("v")
    assert sample.arrays["text"].tolist() == [11035, 585]
    assert sample.caption_words == [0, 1, 2]
    with pytest.raises(InputError, match="stand for CLIP's pieces, not for word2vec"):
        prepare_words(tmp_path, Manifest(tmp_path / "m.parquet"), SETTINGS)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (("2d", "resnet15"), r"resnet15 \(did you mean resnet152\?\)"),
        (("2d", "s3d_howto100m"), "takes clips; set extract.video_3d"),
        (("3d", "timm:resnet18"), "takes single frames; set extract.video_2d"),
    ],
)
def test_a_wrong_backbone_is_said_before_the_folder_is_given_to_it(
    setting: tuple[str, str], said: str, tmp_path: Path
) -> None:
    write_manifest(tmp_path / "m.parquet", [Video("v", captions=[Caption(0, 1, "flip")])])
    where = ["--videos", str(tmp_path), "--shards", str(tmp_path / "shards")]
    with pytest.raises(InputError, match=said):
        main([str(tmp_path / "m.parquet"), *where, "--recipe", "demo", f"--extract.video_{setting[0]}", setting[1]])
    assert not (tmp_path / "shards").exists()


def test_inspect_shows_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    clip = make(tmp_path / "v.mp4", *pictures(2), *tone(2), *H264)
    main(["--inspect", str(clip), "--recipe", "demo"])
    said = capsys.readouterr().err
    assert "160 x 120" in said and "2 x 128" in said and "v.inspect.png" in said
    assert (tmp_path / "v.inspect.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "page.mp4").write_text("<html>")
    with pytest.raises(InputError, match=r"page\.mp4"):
        main(["--inspect", str(tmp_path / "page.mp4"), "--recipe", "demo"])
    with pytest.raises(SystemExit):
        main(["--recipe", "demo"])
