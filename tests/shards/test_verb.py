import pytest
from rich.progress import Progress

from pipeline.datasets.table import write_manifest
from pipeline.errors import InputError
from pipeline.shards.__main__ import main
from pipeline.shards.reader import ShardSet
from pipeline.shards.remote import mount, upload
from pipeline.shards.writer import ShardWriter
from pipeline.types import Video
from tests.shards.samples import make_sample, small_sample, write_shards


@pytest.fixture
def folder(tmp_path):
    return write_shards(tmp_path / "set", [make_sample("one"), small_sample("two")])


def test_verify_says_what_is_missing(folder, tmp_path, capsys):
    manifest = tmp_path / "list.parquet"
    write_manifest(manifest, [Video(video_id) for video_id in ("one", "three")])
    main(["verify", str(folder), "--manifest", str(manifest), "--redo", str(tmp_path / "redo.txt")])
    output = capsys.readouterr()
    assert output.out == ""
    assert "0 problems" in output.err
    assert "1 of the manifest's 2 videos are there, and 1 that are not in it" in output.err
    assert (tmp_path / "redo.txt").read_text() == "three\n"


def test_verify_fails_on_damage_and_repair_mends(folder, tmp_path, capsys):
    tar = folder / "set-w0-000000.tar"
    data = bytearray(tar.read_bytes())
    data[3000] ^= 1
    tar.write_bytes(data)
    with pytest.raises(SystemExit) as caught:
        main(["verify", str(folder), "--redo", str(tmp_path / "redo.txt")])
    assert caught.value.code == 1
    output = capsys.readouterr()
    assert output.out == f"{tar}: one at byte 0: its checksum is wrong\n"
    assert "extracted again after a repair: one" in output.err
    assert (tmp_path / "redo.txt").read_text() == "one\n"
    main(["repair", str(folder)])
    assert "made again with its 1 good sample" in capsys.readouterr().out
    main(["verify", str(folder)])
    assert ShardSet(folder).ids == ["two"]


@pytest.mark.parametrize("workers", ["0", "-1", "many"])
def test_workers_that_cannot_be_are_refused(folder, capsys, workers):
    with pytest.raises(SystemExit) as caught:
        main(["verify", str(folder), "--workers", workers])
    assert caught.value.code == 2
    assert "argument --workers" in capsys.readouterr().err


def test_stats_and_show(folder, capsys):
    main(["stats", str(folder)])
    stats = capsys.readouterr().out
    assert "1 shard, 2 videos, 0.01 hours" in stats
    assert "split train: 2 videos" in stats
    assert "audio: 1 video, float16 [time, 40], 100 per second, 240.00 kB" in stats
    main(["show", str(folder), "one"])
    shown = capsys.readouterr().out
    assert "2d: float16 [30, 6], 1 per second" in shown
    assert "0.00 –     3.00" in shown


def test_repack(folder, tmp_path, capsys):
    (tmp_path / "ids.txt").write_text("two\n")
    target = tmp_path / "new"
    main(["repack", str(folder), str(target), "--videos", str(tmp_path / "ids.txt"), "--drop", "text"])
    assert sorted(ShardSet(target).read("two").arrays) == ["2d"]
    main(["repack", str(folder), str(tmp_path / "other"), "--add", f"2d={target}", "--audio", "8bit"])
    assert "left without 2d, which the other shards have not: 1 video" in capsys.readouterr().err
    assert ShardSet(tmp_path / "other").read("one").arrays["audio"].dtype == "uint8"


def test_bars_end_where_the_work_does(folder, tmp_path, monkeypatch):
    write_shards(folder, [make_sample("three", split="test")], writer="w1")
    totals, add_task = [], Progress.add_task

    def noted(self, description, total=None, **options):
        totals.append((description, total))
        return add_task(self, description, total=total, **options)

    monkeypatch.setattr(Progress, "add_task", noted)
    main(["repack", str(folder), str(tmp_path / "new"), "--split", "test"])
    upload(folder, f"file://{tmp_path}/store")
    mount(f"file://{tmp_path}/store", tmp_path / "mounted")
    size = sum(path.stat().st_size for path in folder.glob("*.tar"))
    main(["verify", str(tmp_path / "mounted")])
    assert totals == [("repack", 1), ("verify", size)]


def test_what_a_store_lost_is_told_once_with_what_to_do(folder, tmp_path, capsys):
    url = f"file://{tmp_path}/store"
    upload(folder, url)
    mounted = tmp_path / "mounted"
    mount(url, mounted)
    (tmp_path / "store" / "set-w0-000000.tar").unlink()
    with pytest.raises(SystemExit):
        main(["verify", str(mounted)])
    output = capsys.readouterr()
    assert output.out.startswith(f"{mounted}/set-w0-000000.tar: is not to be had from {url}: ")
    assert output.out.count("set-w0-000000.tar: ") == 1 and "pipeline.shards verify" not in output.out
    assert "1 shard, 2 samples" in output.err and ": 1 problem\n" in output.err
    assert f"the tars are at {url}: verify the folder that they were uploaded from" in output.err
    assert "shards repair" not in output.err


def test_shards_in_the_making_are_mentioned(folder, tmp_path, capsys):
    writer = ShardWriter(folder, "set", "w1")
    writer.add(small_sample("three"))
    for arguments in (["stats", str(folder)], ["verify", str(folder)], ["repack", str(folder), str(tmp_path / "new")]):
        main(arguments)
        assert "not looked at: 1 shard in the making" in capsys.readouterr().err
    writer.abandon()
    assert ShardSet(tmp_path / "new").ids == ["one", "two"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stats", "nowhere"], "no such folder"),
        (["show", "{folder}", "three"], "no shard has a video three"),
        (["repack", "{folder}", "new", "--add", "text"], "give it as"),
        (["repack", "{folder}", "new", "--videos", "nowhere.txt"], r"nowhere\.txt: there is no such list"),
        (["repack", "{folder}", "new", "--split", "dev"], "no video of split dev; it has train"),
    ],
)
def test_mistakes_are_one_line(folder, arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        main([argument.format(folder=folder) for argument in arguments])
    assert "\n" not in str(caught.value)
