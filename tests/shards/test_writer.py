import errno
import multiprocessing
import os
import re
import subprocess
import tarfile
import textwrap
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset

from pipeline.errors import InputError
from pipeline.shards.reader import ShardSet
from pipeline.shards.recovery import completed_ids, seal_leftovers
from pipeline.shards.verify import verify
from pipeline.shards.writer import ShardWriter
from tests.shards.samples import assert_same, make_sample, small_sample, write_shards


def test_samples_come_back_as_they_went_in(tmp_path):
    samples = [
        make_sample("a-b_c"),
        make_sample("-starts", modalities=("2d", "audio")),
        make_sample("dotted.id", modalities=("text", "3d")),
    ]
    write_shards(tmp_path / "set", samples)
    shards = ShardSet(tmp_path / "set")
    assert shards.ids == ["a-b_c", "-starts", "dotted.id"]
    for sample in samples:
        found = shards.read(sample.video_id)
        assert_same(found, sample)
        assert (found.split, found.category_1, found.task_id) == ("train", "Food", "42")
        assert (found.recipe, found.backbones, found.notes) == (sample.recipe, sample.backbones, sample.notes)
        assert found.caption_words == sample.caption_words


def test_a_plain_webdataset_reads_the_shards(tmp_path):
    sample = make_sample("a-b_c")
    write_shards(tmp_path, [sample, make_sample("dumb", modalities=("2d",)), make_sample("x.y")])
    found = list(webdataset.WebDataset(str(tmp_path / "set-w0-000000.tar"), shardshuffle=False).decode())
    assert [item["__key__"] for item in found] == ["a-b_c", "dumb", "x%2Ey"]
    for name in ("2d", "3d", "audio", "text"):
        np.testing.assert_array_equal(found[0][f"{name}.npy"], sample.arrays[name])
    assert found[0]["json"]["captions"]["text"] == [caption.text for caption in sample.captions]
    assert not {"3d.npy", "audio.npy", "text.npy"} & set(found[1])
    assert found[2]["json"]["video_id"] == "x.y"


@pytest.mark.filterwarnings("error::UserWarning")  # what webdataset tells its users
def test_the_example_of_the_readme_reads_what_any_writers_wrote(tmp_path, monkeypatch, capsys):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (example,) = re.findall(r"^    import glob, webdataset\n(?:    .*\n)+", readme, re.MULTILINE)
    for writer in ("w1", "w3"):
        write_shards(tmp_path / "shards" / "mine", [make_sample(f"of-{writer}")], writer=writer)
    monkeypatch.chdir(tmp_path)
    exec(textwrap.dedent(example), {})
    assert capsys.readouterr().out == "of-w1 (30, 6)\nof-w3 (30, 6)\n"


def test_tar_and_pyarrow_read_the_shards(tmp_path):
    write_shards(tmp_path, [make_sample("one"), make_sample("two", modalities=("2d",))])
    listing = subprocess.run(["tar", "-tf", tmp_path / "set-w0-000000.tar"], capture_output=True, text=True, check=True)
    assert listing.stdout.split()[:3] == ["one.json", "one.times.npy", "one.text.npy"]
    assert listing.stderr == ""
    rows = pq.read_table(tmp_path / "set-w0-000000.parquet").to_pylist()
    assert [row["video_id"] for row in rows] == ["one", "two"]
    assert rows[1]["audio_offset"] is None
    with tarfile.open(tmp_path / "set-w0-000000.tar") as tar:
        assert tar.getmember("one.json").offset_data == rows[0]["json_offset"]


def test_equal_samples_give_equal_bytes(tmp_path):
    for folder in ("first", "second"):
        write_shards(tmp_path / folder, [make_sample("one"), make_sample("two")], name="set")
    for suffix in (".tar", ".parquet"):
        first, second = (next((tmp_path / folder).glob(f"*{suffix}")).read_bytes() for folder in ("first", "second"))
        assert first == second


def test_a_shard_is_sealed_at_its_size(tmp_path):
    write_shards(tmp_path, [small_sample(f"v{number}") for number in range(5)], shard_bytes=6000)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"set-w0-{number:06d}.{suffix}" for number in range(3) for suffix in ("parquet", "tar")
    ]


def test_a_sample_counts_once_added(tmp_path):
    writer = ShardWriter(tmp_path, "set", "w0")
    writer.add(small_sample("one"))
    assert writer.completed == completed_ids(tmp_path) == {"one"}
    with pytest.raises(ValueError, match="already"):
        writer.add(small_sample("one"))
    writer.abandon()
    assert completed_ids(tmp_path) == {"one"}
    reopened = ShardWriter(tmp_path, "set", "w0")
    assert reopened.completed == {"one"}
    reopened.add(small_sample("two"))
    reopened.close()
    assert ShardSet(tmp_path).ids == ["one", "two"]
    assert ShardWriter(tmp_path, "set", "w0").completed == {"one", "two"}


def test_a_writer_without_samples_leaves_nothing(tmp_path):
    ShardWriter(tmp_path, "set", "w0").close()
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_the_shard_to_the_next_writer(tmp_path):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, "set", "w0") as writer:
        writer.add(small_sample("one"))
        raise RuntimeError
    assert (tmp_path / "set-w0-000000.tar.part").exists()
    assert seal_leftovers(tmp_path) == [tmp_path / "set-w0-000000.tar"]
    assert ShardSet(tmp_path).ids == ["one"]


def test_leftovers_of_excepted_writers_stay(tmp_path):
    for name in ("w0", "w1"):
        writer = ShardWriter(tmp_path, "set", name)
        writer.add(small_sample(f"of_{name}"))
        writer.abandon()
    assert [path.name for path in seal_leftovers(tmp_path, except_writers=["w0"])] == ["set-w1-000000.tar"]
    assert completed_ids(tmp_path) == {"of_w0", "of_w1"}
    assert completed_ids(tmp_path, "w0") == {"of_w0"}
    assert completed_ids(tmp_path, "w1") == {"of_w1"}


def test_two_writers_of_one_name_never_write_at_once(tmp_path):
    writer = ShardWriter(tmp_path, "set", "w0")
    with pytest.raises(InputError, match=r"set-w0\.lock: another process"):
        ShardWriter(tmp_path, "set", "w0", wait=0.1)
    with ShardWriter(tmp_path, "set", "w1", wait=0.1) as other:
        other.add(small_sample("one"))
    writer.abandon()
    ShardWriter(tmp_path, "set", "w0", wait=0.1).close()


def _hold_lock(folder, ready):
    writer = ShardWriter(folder, "set", "w0")
    writer.add(small_sample("one"))
    ready.set()
    multiprocessing.Event().wait()


def test_a_killed_process_lets_go_of_its_lock(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_hold_lock, args=(tmp_path, ready))
    process.start()
    assert ready.wait(60)
    with pytest.raises(InputError):
        ShardWriter(tmp_path, "set", "w0", wait=0)
    process.kill()
    with ShardWriter(tmp_path, "set", "w0", wait=60) as writer:
        assert writer.completed == {"one"}
    process.join()


@pytest.mark.parametrize("writer", ["", "w-0", "../w", "w 0"])
def test_a_writers_name_must_be_found_in_a_file_name(tmp_path, writer):
    with pytest.raises(ValueError, match="writer's name"):
        ShardWriter(tmp_path, "set", writer)


@pytest.mark.parametrize("full_at", range(1, 12))
def test_a_full_disk_raises_and_loses_nothing(tmp_path, monkeypatch, full_at):
    """The n-th write and all later ones find the disk full; then there is room again."""
    written = 0
    real_write = os.write

    def write(descriptor, data):
        nonlocal written
        written += 1
        if written == full_at and len(data) > 1:
            return real_write(descriptor, data[: len(data) // 2])
        if written >= full_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    ids = [f"v{number}" for number in range(4)]
    writer = ShardWriter(tmp_path, "set", "w0", shard_bytes=6000)
    closing = False
    with pytest.raises(OSError, match="No space left") as caught:
        for video_id in ids:
            writer.add(small_sample(video_id))
        closing = True
        writer.close()
    assert caught.value.errno == errno.ENOSPC
    assert str(tmp_path) in caught.value.filename
    kept = writer.completed
    monkeypatch.undo()
    assert completed_ids(tmp_path) == kept
    with ShardWriter(tmp_path, "set", "w0", 6000, wait=0) if closing else writer as writer:
        for video_id in ids:
            if video_id not in kept:
                writer.add(small_sample(video_id))
    assert ShardSet(tmp_path).ids == ids


def test_a_sealed_shard_whose_number_comes_next_is_not_written_over(tmp_path):
    writer = ShardWriter(tmp_path, "set", "w0", shard_bytes=1)
    writer.add(small_sample("second"))
    writer.close()
    (tmp_path / "set-w0-000000.tar").rename(tmp_path / "set-w0-000001.tar")
    (tmp_path / "set-w0-000000.parquet").rename(tmp_path / "set-w0-000001.parquet")
    (tmp_path / "set-w0-000000.tar.part").touch()
    (tmp_path / "set-w0-000000.journal").touch()
    with ShardWriter(tmp_path, "set", "w0", shard_bytes=1) as writer:
        writer.add(small_sample("first"))
        writer.add(small_sample("third"))
    assert completed_ids(tmp_path) == {"first", "second", "third"}
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == [f"set-w0-00000{number}.tar" for number in range(3)]
    assert verify(tmp_path).problems == []
