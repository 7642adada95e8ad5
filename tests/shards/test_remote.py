"""Shards in an object store: a real process that speaks S3, and one that speaks HTTP."""

import sys
from pathlib import Path

import pytest
import torch

from pipeline.config import ClipSettings
from pipeline.errors import InputError
from pipeline.shards.__main__ import main
from pipeline.shards.evaluation import evaluation_clips
from pipeline.shards.files import ShardError
from pipeline.shards.loader import TrainingLoader
from pipeline.shards.reader import ShardSet
from pipeline.shards.recovery import completed_ids
from pipeline.shards.remote import mount, upload
from pipeline.shards.verify import verify
from tests.processes import free_port, serve
from tests.shards.samples import assert_same, make_sample, same, write_shards

IDS = [f"video{number}" for number in range(6)]
SETTINGS = ClipSettings(per_video=3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    samples = [make_sample(video_id, split="test" if video_id == "video5" else "train") for video_id in IDS]
    return write_shards(tmp_path_factory.mktemp("whole") / "set", samples, shard_bytes=400_000)


@pytest.fixture
def folder(tmp_path):
    samples = [make_sample(video_id, split="test" if video_id == "video5" else "train") for video_id in IDS]
    folder = write_shards(tmp_path / "set", samples, shard_bytes=400_000)
    (folder / "words.parquet").write_bytes(b"the words")
    return folder


def test_there_and_back(store, folder, whole, tmp_path):
    assert upload(folder, f"{store}/back") == (3, 0)
    assert upload(folder, f"{store}/back") == (0, 3)
    mounted = tmp_path / "mounted"
    assert mount(f"{store}/back", mounted) == 3
    assert (mounted / "words.parquet").read_bytes() == b"the words"
    assert not list(mounted.glob("*.tar"))
    shards = ShardSet(mounted)
    for video_id in IDS:
        assert_same(shards.read(video_id, check=True), make_sample(video_id))
    assert completed_ids(mounted) == set(IDS)
    assert verify(mounted).problems == []


def test_a_folder_elsewhere_is_a_store_too_and_is_made(folder, tmp_path):
    url = f"file://{tmp_path}/elsewhere/set"
    assert upload(folder, url, remove=True) == (3, 0)
    assert mount(url, tmp_path / "mounted") == 3
    assert verify(tmp_path / "mounted").problems == verify(folder).problems == []


@pytest.mark.parametrize("workers", [0, 2])
def test_training_and_evaluation_read_from_the_store(store, folder, whole, tmp_path, workers):
    url = f"{store}/train{workers}"
    upload(folder, url)
    mounted = tmp_path / "mounted"
    mount(url, mounted)
    there, here = (
        TrainingLoader(ShardSet(place), SETTINGS, batch_videos=2, seed=1, workers=workers) for place in (mounted, whole)
    )
    for batch, expected in zip(there, here, strict=True):
        assert same(batch, expected)
    there.close()
    here.close()
    (batch,), (expected,) = (evaluation_clips(ShardSet(place), "test") for place in (mounted, whole))
    assert torch.equal(batch["features_3d"], expected["features_3d"])


def test_removed_tars_are_read_from_the_store_and_new_ones_follow(store, folder, tmp_path, capsys):
    url = f"{store}/removed"
    main(["upload", str(folder), url, "--remove"])
    assert "3 shards put and compared" in capsys.readouterr().err
    assert not list(folder.glob("*.tar"))
    assert completed_ids(folder) == set(IDS)
    write_shards(folder, [make_sample("later")], writer="w1")
    shards = ShardSet(folder)
    assert_same(shards.read("later"), make_sample("later"))
    assert_same(shards.read("video3"), make_sample("video3"))
    main(["upload", str(folder), url])
    assert "1 shard put and compared, 3 were there" in capsys.readouterr().err
    main(["mount", str(tmp_path / "mounted"), url])
    assert sorted(ShardSet(tmp_path / "mounted").ids) == sorted([*IDS, "later"])
    main(["verify", str(tmp_path / "mounted")])
    with pytest.raises(InputError, match="repair the folder that they were uploaded from"):
        main(["repair", str(tmp_path / "mounted")])


def test_what_the_store_lost_or_changed_is_named(store, folder, tmp_path):
    import s3fs

    url = f"{store}/lost"
    upload(folder, url)
    mounted = tmp_path / "mounted"
    mount(url, mounted)
    files = s3fs.S3FileSystem()
    files.rm("bucket/lost/set-w0-000000.tar")
    data = bytearray(files.cat_file("bucket/lost/set-w0-000001.tar"))
    data[3000] ^= 1
    files.pipe_file("bucket/lost/set-w0-000001.tar", bytes(data))
    report = verify(mounted)
    assert sorted(report.redo) == ["video0", "video1", "video2"]
    with pytest.raises(ShardError, match=r"set-w0-000000\.tar: is not to be had from s3://"):
        list(TrainingLoader(ShardSet(mounted), SETTINGS, batch_videos=1, seed=1))


def test_an_upload_that_arrives_changed_is_refused(store, folder, monkeypatch):
    import s3fs

    put = s3fs.S3FileSystem._put_file

    async def cut(self, here, there, **options):
        await put(self, here, there, **options)
        if there.endswith(".tar"):
            await self._pipe_file(there, Path(here).read_bytes()[:-1])

    monkeypatch.setattr(s3fs.S3FileSystem, "_put_file", cut)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(InputError, match="is not what was put there"):
        upload(folder, f"{store}/changed", remove=True)
    monkeypatch.undo()
    s3fs.S3FileSystem.clear_instance_cache()
    assert len(list(folder.glob("*.tar"))) == 3
    assert not [name for name in s3fs.S3FileSystem().ls("bucket/changed", refresh=True) if name.endswith("0.parquet")]
    assert upload(folder, f"{store}/changed", remove=True) == (3, 0)


def test_shards_of_a_web_server(folder, tmp_path):
    pytest.importorskip("aiohttp")
    url = f"http://127.0.0.1:{free_port()}"
    script = Path(__file__).with_name("range_server.py")
    process = serve([sys.executable, str(script), str(folder.parent), url.rpartition(":")[2]], url)
    try:
        assert mount(f"{url}/set", tmp_path / "mounted") == 3
        shards = ShardSet(tmp_path / "mounted")
        assert_same(shards.read("video2", check=True), make_sample("video2"))
        assert len(list(TrainingLoader(shards, SETTINGS, batch_videos=2, seed=1))) == 2
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "does not say where the tars are"),
        ('{"format": 1}', "does not say where the tars are"),
        ("[]", "does not say where the tars are"),
        ('{"format": 2, "at": "s3://x"}', "format version 2"),
    ],
)
def test_a_note_of_another_place_that_cannot_be_read_is_named(folder, content, message):
    (folder / "remote.json").write_text(content)
    with pytest.raises(ShardError, match=rf"remote\.json: .*{message}"):
        ShardSet(folder)


def test_a_store_that_does_not_answer_is_one_line(folder, tmp_path, monkeypatch):
    for call in (
        lambda: mount("nothing://bucket/x", tmp_path / "m"),
        lambda: upload(folder, f"http://127.0.0.1:{free_port()}/x"),
        lambda: mount(f"file://{tmp_path}/none", tmp_path / "m"),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "m").exists()


def test_a_refused_mount_changes_nothing(store, folder, tmp_path):
    upload(folder, f"{store}/one")
    other = write_shards(tmp_path / "other" / "set", [make_sample("other")])
    (other / "words.parquet").write_bytes(b"other words")
    upload(other, f"{store}/other")
    mounted = tmp_path / "mounted"
    mount(f"{store}/one", mounted)
    for url, into in [(f"{store}/other", mounted), (f"{store}/other", folder)]:
        before = {path.name: path.read_bytes() for path in into.iterdir()}
        with pytest.raises(InputError):
            mount(url, into)
        assert {path.name: path.read_bytes() for path in into.iterdir()} == before


def test_another_shard_of_the_same_name_is_not_taken_for_this_one(store, folder, tmp_path):
    other = write_shards(tmp_path / "other" / "set", [make_sample("other")])
    upload(other, f"{store}/taken")
    (folder / "words.parquet").unlink()
    with pytest.raises(InputError, match=r"set-w0-000000\.parquet: is of another shard"):
        upload(folder, f"{store}/taken", remove=True)
    assert len(list(folder.glob("*.tar"))) == 3


def test_nothing_is_asked_of_the_store_for_an_empty_array(store, tmp_path):
    folder = write_shards(tmp_path / "set", [make_sample("quiet")])
    upload(folder, f"{store}/empty")
    mount(f"{store}/empty", tmp_path / "mounted")
    shards = ShardSet(tmp_path / "mounted")
    assert bytes(shards.tars.read(0, 512, 0)) == b""


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/set", r"s3://bucket/set: the library .* is not installed: pip install '\.\[s3\]'"),
        ("gs://bucket/set", r"pip install '\.\[gs\]'"),
        ("abfs://bucket/set", "is not installed: ImportError: Install adlfs"),
    ],
)
def test_a_library_that_is_missing_is_named_with_how_to_install_it(folder, monkeypatch, url, message):
    def missing(url):
        raise ImportError("Install adlfs")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(InputError, match=message):
        upload(folder, url)
