"""Shards that go into a store as they are sealed, by writers that are killed."""

import random
import signal
import subprocess
import sys
import time

import pytest

from pipeline.errors import InputError
from pipeline.shards.reader import ShardSet
from pipeline.shards.recovery import completed_ids
from pipeline.shards.remote import Destination, mount, upload
from pipeline.shards.uploads import SealedUploads
from pipeline.shards.verify import verify
from pipeline.shards.writer import ShardWriter
from tests.processes import free_port
from tests.shards.samples import assert_same, small_sample

IDS = [f"v{number:02d}" for number in range(24)]

WRITER = """
import sys
from pathlib import Path
from pipeline.shards.remote import Destination
from pipeline.shards.uploads import SealedUploads
from pipeline.shards.writer import ShardWriter
from tests.shards.samples import small_sample
folder, url, ids = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
uploads = SealedUploads(folder, "w0", Destination(url, remove=True))
with ShardWriter(folder, "set", "w0", 6000, on_seal=uploads.start) as writer:
    print("begin", flush=True)
    for video_id in ids:
        if video_id not in writer.completed:
            writer.add(small_sample(video_id))
            print(video_id, flush=True)
uploads.close()
"""


def in_store(url):
    import s3fs

    return sorted(name.rpartition("/")[2] for name in s3fs.S3FileSystem().find(url, refresh=True))


@pytest.mark.slow
def test_killed_writers_shards_are_there_once_and_whole(store, tmp_path):
    folder, url = tmp_path / "set", f"{store}/killed"
    draw = random.Random(5)
    for attempt in range(6):
        command = [sys.executable, "-c", WRITER, str(folder), url, *IDS]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "begin\n"
        if attempt < 5:
            for _ in range(draw.randrange(2, 6)):  # samples, two of which are a shard
                process.stdout.readline()
            time.sleep(draw.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
        process.stdout.read()
        assert process.wait() in (0, -signal.SIGKILL)
        process.stdout.close()
        tars = {path.stem for path in folder.glob("*.tar")}
        stored = in_store(url)
        for index in folder.glob("*.parquet"):
            assert index.stem in tars or index.name in stored, "a tar was removed before it was there"
    upload(folder, url, remove=True)
    assert not list(folder.glob("*.tar"))
    assert completed_ids(folder) == set(IDS)
    mount(url, tmp_path / "mounted")
    assert verify(tmp_path / "mounted").problems == []
    shards = ShardSet(tmp_path / "mounted")
    assert (sorted(shards.ids), shards.repeated) == (IDS, 0)
    assert_same(shards.read("v17", check=True), small_sample("v17"))
    tars = [name for name in in_store(url) if name.endswith(".tar")]
    assert tars == [f"{stem}.tar" for stem in shards.stems]


def test_a_store_without_an_answer_stops_no_writer(tmp_path, caplog):
    uploads = SealedUploads(tmp_path, "w0", Destination(f"http://127.0.0.1:{free_port()}/x", remove=True))
    with ShardWriter(tmp_path, "set", "w0", 6000, on_seal=uploads.start) as writer:
        for video_id in IDS[:4]:
            writer.add(small_sample(video_id))
    uploads.close()
    assert len(list(tmp_path.glob("*.tar"))) == 2
    assert all("left for later" in record.message for record in caplog.records)
    assert len(caplog.records) == 2


def test_a_shard_that_is_not_sealed_to_the_end_stays(store, tmp_path):
    """A writer needs the tar to end what was cut off between its index and its journal."""
    folder, url = tmp_path / "set", f"{store}/journal"
    with ShardWriter(folder, "set", "w0", 6000) as writer:
        writer.add(small_sample("one"))
        journal = (folder / "set-w0-000000.journal").read_bytes()
    (folder / "set-w0-000000.journal").write_bytes(journal)
    assert upload(folder, url, remove=True) == (0, 0)
    ShardWriter(folder, "set", "w0", 6000).close()
    assert upload(folder, url, remove=True) == (1, 0)
    assert completed_ids(folder) == {"one"}


def test_another_place_or_other_settings_are_refused(store, tmp_path):
    for name, fingerprint in (("set", "1" * 16), ("other", "2" * 16)):
        with ShardWriter(tmp_path / name, name, "w0") as writer:
            writer.add(small_sample("one"))
        (tmp_path / name / "extract.yaml").write_text(f"fingerprint: '{fingerprint}'\n")
    upload(tmp_path / "set", f"{store}/settings", remove=True)
    with pytest.raises(InputError, match="holds shards of other settings"):
        upload(tmp_path / "other", f"{store}/settings")
    with pytest.raises(InputError, match="tars that were removed here are at"):
        upload(tmp_path / "set", f"{store}/elsewhere", remove=True)
    with pytest.raises(InputError, match="is neither here nor at"):
        upload(tmp_path / "set", f"{store}/elsewhere")
