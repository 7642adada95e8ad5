import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.datasets.table import Manifest
from pipeline.errors import InputError
from pipeline.manifest import main
from pipeline.types import Caption


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "list.csv"
    rows = [f"v{n},{'Food' if n % 2 else 'Cars'},{n % 5},{n // 10},{'test' if n == 7 else 'train'}" for n in range(100)]
    path.write_text("video_id,category_1,rank,task_id,split\n" + "\n".join(rows) + "\n")
    return path


def ids(table, *options):
    out = table.with_suffix(".parquet")
    main(["build", "table", str(table), "--out", str(out), *options])
    return Manifest(out).ids()


def test_each_condition_and_all_of_them(table, tmp_path):
    assert len(ids(table)) == 100
    assert ids(table, "--limit", "3") == ["v0", "v1", "v2"]
    assert ids(table, "--category", "food", "--rank", "1", "--task", "2") == ["v21", "v25"]
    assert ids(table, "--task", "0", "--task", "9", "--category", "Cars", "--rank", "0") == ["v0", "v90"]
    assert ids(table, "--split", "test") == ["v7"]
    (tmp_path / "keep.txt").write_text("v5\nv50\nnobody\n")
    assert ids(table, "--ids", str(tmp_path / "keep.txt")) == ["v5", "v50"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--category", "foo"],
            "--category foo: no video of the list has it; did you mean 'Food'. There are Cars",
        ),
        (["--category", "Food", "--category", "Crs"], "--category Crs: .* did you mean 'Cars'"),
        (["--split", "val"], "--split val: no video of the list has it; there are test, train"),
        (["--task", "77"], r"--task 77: .* There are 0, 1, 2, .*, 9"),
        (
            ["--category", "Cars", "--split", "test"],
            "none of the 100 videos of the list meets all of --category Cars, --s",
        ),
        (["--rank", "-1"], "none of the 100 videos of the list meets --rank -1: be less strict"),
    ],
)
def test_what_no_video_has_is_named_with_what_there_is(table, options, message):
    with pytest.raises(InputError, match=message) as caught:
        ids(table, *options)
    assert "\n" not in str(caught.value) and not table.with_suffix(".parquet").exists()


def test_a_share_is_seeded_and_grows(table):
    few, many = ids(table, "--share", "0.2", "--seed", "3"), ids(table, "--share", "0.6", "--seed", "3")
    assert few == ids(table, "--share", "0.2", "--seed", "3") != ids(table, "--share", "0.2", "--seed", "4")
    assert set(few) < set(many) and 8 <= len(few) <= 35 and 45 <= len(many) <= 75
    with pytest.raises(InputError, match="--share"):
        ids(table, "--share", "1.5")


def test_what_was_refused_is_named(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("video_id\na\nb\na\n../../etc/passwd\n")
    main(["build", "table", str(tmp_path / "a.csv"), "--out", str(tmp_path / "a.parquet")])
    said = capsys.readouterr().err
    assert "2 videos, no captions" in said
    assert "1 duplicate id: 'a'" in said and "1 malformed id: '../../etc/passwd'" in said


def test_show_counts(table, capsys):
    ids(table)
    main(["show", str(table.with_suffix(".parquet"))])
    said = capsys.readouterr().err
    assert "100" in said and "Food" in said and "train 99, test 1" in said


def test_a_list_is_not_replaced_by_its_manifest(tmp_path, capsys):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "note": ["mine", "mine"]}), path)
    with pytest.raises(InputError, match="this is the list itself, which would be replaced; name another"):
        main(["build", "table", str(path), "--out", str(path)])
    assert pq.read_table(path)["note"].to_pylist() == ["mine", "mine"]


def test_build_and_show_count_captions_alike(tmp_path, capsys):
    rows = [[{"start": 0, "end": 1, "text": "cut"}, {"start": 5, "end": 1, "text": "it"}], [], None]
    text = "\n".join(json.dumps({"id": f"v{number}", "captions": row}) for number, row in enumerate(rows))
    (tmp_path / "a.jsonl").write_text(text)
    main(["build", "table", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "a.parquet")])
    said = capsys.readouterr().err
    assert "3 videos, 1 caption of 1 video in" in said and "left out 1 caption with an end" in said
    main(["show", str(tmp_path / "a.parquet")])
    assert "1 caption of 1 video" in capsys.readouterr().err


def test_captions_without_a_time_are_left_out_and_counted_and_those_without_a_text_are_empty(tmp_path, capsys):
    rows = [(0, 1, None), (None, 1, "cut"), (0, None, "cut"), (0, float("nan"), "cut"), (0, 1, float("nan"))]
    captions = [dict(zip(("start", "end", "text"), row, strict=True)) for row in rows]
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "v", "captions": captions}))
    main(["build", "table", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "a.parquet")])
    assert "left out 3 captions with an end before its start, or no time of a video" in capsys.readouterr().err
    assert [video.captions for video in Manifest(tmp_path / "a.parquet")] == [[Caption(0, 1, "")] * 2]


def test_a_manifest_whose_pages_are_damaged_is_said_in_one_line(table, tmp_path):
    ids(table)
    manifest = table.with_suffix(".parquet")
    content = bytearray(manifest.read_bytes())
    content[40:60] = bytes(20)
    manifest.write_bytes(content)
    for arguments in (["show", str(manifest)], ["merge", str(manifest), "--out", str(tmp_path / "merged.parquet")]):
        with pytest.raises(InputError, match=r"list\.parquet: damaged .* write it again") as caught:
            main(arguments)
        assert "\n" not in str(caught.value)


def test_merge_takes_the_first_of_a_video_that_is_listed_twice(tmp_path, capsys):
    for name, text in (("a", "video_id,split\nx,train\ny,train\n"), ("b", "video_id,split\ny,test\nz,test\n")):
        (tmp_path / f"{name}.csv").write_text(text)
        main(["build", "table", str(tmp_path / f"{name}.csv"), "--out", str(tmp_path / f"{name}.parquet")])
    both = [str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")]
    main(["merge", *both, "--out", str(tmp_path / "both.parquet")])
    merged = [(video.video_id, video.split) for video in Manifest(tmp_path / "both.parquet")]
    assert merged == [("x", "train"), ("y", "train"), ("z", "test")]
    assert "1 duplicate id: 'y'" in capsys.readouterr().err
    with pytest.raises(InputError, match="there is no manifest"):
        main(["merge", both[0], str(tmp_path / "c.parquet"), "--out", str(tmp_path / "d.parquet")])


def test_lsmdc_needs_a_list(tmp_path):
    with pytest.raises(InputError, match="no list of LSMDC"):
        main(["build", "lsmdc", "--out", str(tmp_path / "x.parquet")])


def test_labels_of_frames_are_not_taken_for_labels_of_seconds(tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "videos_test.txt").write_text("-2TGG1WFF3A\n")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "-2TGG1WFF3A.txt").write_text("add_oil\n" * 50)
    out = tmp_path / "m.parquet"
    command = ["build", "miningyoutube", str(tmp_path), "--annotations", str(tmp_path / "labels"), "--out", str(out)]
    with pytest.raises(InputError, match="--annotations needs --labels-per-second"):
        main(command)
    main([*command, "--labels-per-second", "25"])
    assert [video.captions for video in Manifest(out)] == [[Caption(0.0, 2.0, "add oil")]]
    main(["build", "miningyoutube", str(tmp_path), "--out", str(out)])
    assert [video.captions for video in Manifest(out)] == [None]


def test_crosstasks_videos_for_training_are_drawn(tmp_path):
    (tmp_path / "tasks_primary.txt").write_text("7\nTea\nhttp://x\n1\nboil\n")
    (tmp_path / "videos_val.csv").write_text("7,abcdefghijk,u\n")
    (tmp_path / "videos.csv").write_text("7,abcdefghijk,u\n7,aaaaaaaaaaa,u\n7,bbbbbbbbbbb,u\n7,ccccccccccc,u\n")
    out, splits = tmp_path / "m.parquet", []
    for draw in ("0", "1", "2", "3"):
        main(["build", "crosstask", str(tmp_path), "--train-per-task", "1", "--draw", draw, "--out", str(out)])
        splits.append({video.video_id: video.split for video in Manifest(out)})
        assert sorted(splits[-1].values()) == ["test", "test", "train", "validation"]
    assert len({tuple(sorted(found.items())) for found in splits}) > 1


def test_actions_by_fold_and_split(tmp_path):
    (tmp_path / "pick_test_split2.txt").write_text("a.avi 1\nb.avi 2\nc.avi 0\n")
    (tmp_path / "testlist02.txt").write_text("YoYo/v_YoYo_g01_c01.avi\n")
    (tmp_path / "trainlist02.txt").write_text("YoYo/v_YoYo_g08_c01.avi 101\n")
    for dataset, expected in (("hmdb51", ["b"]), ("ucf101", ["v_YoYo_g01_c01"])):
        out = tmp_path / f"{dataset}.parquet"
        main(["build", dataset, str(tmp_path), "--fold", "2", "--split", "test", "--out", str(out)])
        assert Manifest(out).ids() == expected


@pytest.mark.parametrize("lost", ["csv", "captions"])
def test_a_file_that_is_missing_is_said_before_there_is_a_bar(tmp_path, capsys, lost):
    (tmp_path / "csv").write_text("video_id,category_1,category_2,rank,task_id\nabc,Food,,1,9\n")
    (tmp_path / "captions").write_text("{}")
    (tmp_path / lost).unlink()
    files = ["--csv", str(tmp_path / "csv"), "--captions", str(tmp_path / "captions")]
    with pytest.raises(InputError, match=rf"there is no .*{lost}; .* HowTo100M.zip"):
        main(["build", "howto100m", *files, "--out", str(tmp_path / "a.parquet")])
    assert "videos" not in capsys.readouterr().err
