"""Readers of the benchmarks' official files."""

import json
import shutil
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets.crosstask import Task, read_crosstask, read_tasks
from pipeline.datasets.hmdb51 import read_hmdb51
from pipeline.datasets.identity import id_of_name, is_video_id
from pipeline.datasets.lsmdc import read_lsmdc
from pipeline.datasets.mining_youtube import read_mining_youtube
from pipeline.datasets.msrvtt import read_msrvtt
from pipeline.datasets.ucf101 import read_ucf101
from pipeline.datasets.youcook2 import read_youcook2
from pipeline.errors import InputError
from pipeline.types import Caption
from tests.conftest import ANNOTATIONS, needs_shared


@needs_shared
def test_youcook2():
    videos = list(read_youcook2(ANNOTATIONS / "youcookii_annotations_trainval.json"))
    assert [(video.video_id, video.split, video.task_id, video.url) for video in videos] == [
        ("GLd3aX16zBg", "train", "113", None),
        ("xHr8X2Wpmno", "test", "405", None),
    ]
    assert videos[0].captions[0] == Caption(90, 102, "spread margarine on two slices of white bread")
    assert len(videos[1].captions) == 2


@pytest.mark.parametrize("content", ['{"a": 1}', '{"database": {"x": {"subset": "training"}}}', "[]", "{"])
def test_youcook2_of_another_layout(tmp_path, content):
    (tmp_path / "y.json").write_text(content)
    with pytest.raises(InputError, match=r"y\.json: not"):
        list(read_youcook2(tmp_path / "y.json"))
    with pytest.raises(InputError, match="it comes with YouCook2"):
        list(read_youcook2(tmp_path / "none.json"))


@needs_shared
def test_msrvtt_as_published_and_the_1k_a_test():
    data, jsfusion = ANNOTATIONS / "MSRVTT_data.json", ANNOTATIONS / "MSRVTT_JSFUSION_test.csv"
    train, test = read_msrvtt(data)
    assert (train.video_id, train.split, train.url, train.category_1) == ("video0", "train", None, "9")
    assert [caption.text for caption in train.captions] == ["a car is shown", "someone drives a car on a track"]
    assert train.captions[0].start == 0 and train.captions[0].end == pytest.approx(11.72)
    assert (test.video_id, test.split) == ("video9770", "test")
    whole = next(read_msrvtt(data, from_youtube=True))
    assert whole.url == "https://www.youtube.com/watch?v=9lZi22qLlEo"
    assert whole.captions[0][:2] == (137.72, 149.44)
    train, test = read_msrvtt(data, jsfusion)
    assert (train.split, test.split) == ("train", "test")
    assert [caption.text for caption in test.captions] == ["a person is connecting something to system"]


def make_msrvtt(tmp_path):
    splits = {"video1": "train", "video2": "validate", "video3": "test", "video4": "test", "video5": "train"}
    clips = [
        {"category": 1, "url": "u", "video_id": name, "start time": 1, "end time": 3, "split": split, "id": 0}
        for name, split in splits.items()
    ]
    sentences = [{"caption": f"{name} {number}", "video_id": name} for name in splits for number in range(3)]
    (tmp_path / "data.json").write_text(json.dumps({"videos": clips, "sentences": sentences}))
    (tmp_path / "test.csv").write_text('key;vid_key;video_id;sentence\nret0;msr3;video3;"one; two, three"\n')
    (tmp_path / "train.csv").write_text("video_id\nvideo1\nvideo2\n")
    return tmp_path / "data.json", tmp_path / "test.csv", tmp_path / "train.csv"


def test_msrvtt_lists_decide_the_splits(tmp_path):
    data, test, train = make_msrvtt(tmp_path)
    assert [video.split for video in read_msrvtt(data)] == ["train", "validation", "test", "test", "train"]
    assert [video.split for video in read_msrvtt(data, test)] == ["train", "validation", "test", "unused", "train"]
    videos = list(read_msrvtt(data, test, train))
    assert [video.split for video in videos] == ["train", "train", "test", "unused", "unused"]
    assert videos[2].captions == [Caption(0, 2, "one; two, three")]
    assert len(videos[0].captions) == 3
    with pytest.raises(InputError, match="not the JSFusion test"):
        list(read_msrvtt(data, train))


@needs_shared
def test_crosstask_as_published():
    videos = list(read_crosstask(ANNOTATIONS / "crosstask"))
    assert [(video.video_id, video.task_id, video.split, video.url) for video in videos] == [
        ("--bv0V6ZjWI", "23521", "validation", None),
        ("-8PDeMTZmfc", "59684", "validation", None),
    ]
    assert videos[0].category_1 == "Make Jello Shots"
    assert videos[0].captions == [
        Caption(21.38, 25.45, "pour water"),
        Caption(31.09, 35.85, "pour jello powder"),
        Caption(40.15, 45.26, "stir mixture"),
    ]


@needs_shared
def test_crosstask_with_all_its_videos(tmp_path):
    release = tmp_path / "release"
    shutil.copytree(ANNOTATIONS / "crosstask", release, copy_function=shutil.copyfile)
    release.chmod(0o755)
    (release / "annotations").chmod(0o755)
    related = "105222\nMake Tea\nhttp://w\n1\nboil water\n\n"
    (release / "tasks_related.txt").write_text(related)
    lines = ["23521,--bv0V6ZjWI,u", "23521,abcdefghijk,http://elsewhere/x.mp4", "105222,ABCDEFGHIJK,v"]
    (release / "videos.csv").write_text("\n".join(lines) + "\n")
    videos = list(read_crosstask(release))
    assert [(video.video_id, video.split, video.category_1) for video in videos] == [
        ("--bv0V6ZjWI", "validation", "Make Jello Shots"),
        ("-8PDeMTZmfc", "validation", "Build Simple Floating Shelves"),
        ("abcdefghijk", "test", "Make Jello Shots"),
        ("ABCDEFGHIJK", "train", "Make Tea"),
    ]
    assert videos[2].url == "http://elsewhere/x.mp4" and videos[2].captions is None
    (release / "annotations" / "23521_abcdefghijk.csv").write_text("7,1.0,2.0\n")
    with pytest.raises(InputError, match="there is no step 7 in task 23521"):
        list(read_crosstask(release))
    (release / "annotations" / "23521_abcdefghijk.csv").write_text("1,soon,2.0\n")
    with pytest.raises(InputError, match="'soon' is not a time"):
        list(read_crosstask(release))


@needs_shared
def test_some_of_each_primary_task_of_crosstask_can_be_drawn_for_training(tmp_path):
    release = tmp_path / "release"
    shutil.copytree(ANNOTATIONS / "crosstask", release, copy_function=shutil.copyfile)
    release.chmod(0o755)
    listed = [(task, f"{task[:5]}vid{number:03d}") for task in ("23521", "59684", "105222") for number in range(20)]
    listed.append(("94276", "94276vid000"))
    (release / "videos.csv").write_text("".join(f"{task},{video_id},u\n" for task, video_id in listed))
    (release / "tasks_primary.txt").write_text(
        (release / "tasks_primary.txt").read_text() + "\n94276\nMake Meringue\nhttp://w\n1\nwhisk\n"
    )

    def drawn(**options):
        splits = {"validation": [], "test": [], "train": []}
        for video in read_crosstask(release, **options):
            splits[video.split].append((video.task_id, video.video_id))
        return splits

    alone, first, again, other = (
        drawn(),
        drawn(train_per_task=5),
        drawn(train_per_task=5),
        drawn(train_per_task=5, seed=1),
    )
    assert len(alone["test"]) == 41 and {task for task, _ in alone["train"]} == {"105222"}
    assert first == again and first["train"] != other["train"]
    for splits in (first, other):
        counts = Counter(task for task, _ in splits["train"])
        assert counts == {"23521": 5, "59684": 5, "105222": 20, "94276": 1}
        assert sorted(splits["train"] + splits["test"]) == sorted(alone["train"] + alone["test"])
        assert splits["validation"] == alone["validation"]


def test_tasks(tmp_path):
    path = tmp_path / "tasks.txt"
    path.write_text("1\nMake Tea\nhttp://w\n2\nboil water,pour\n\n\n2\nSit\nu\n1\nsit\n")
    assert read_tasks(path) == {"1": Task("1", "Make Tea", ("boil water", "pour")), "2": Task("2", "Sit", ("sit",))}
    for text in ("1\nMake Tea\nu\n3\na,b\n", "1\nMake Tea\nu\n2\na,\n", "1\nMake Tea\n", ""):
        path.write_text(text)
        with pytest.raises(InputError, match=r"tasks\.txt"):
            read_tasks(path)


def test_mining_youtube(tmp_path):
    (tmp_path / "test").mkdir()
    with pytest.raises(InputError, match="none of test/videos_test"):
        list(read_mining_youtube(tmp_path))
    (tmp_path / "test" / "videos_test.txt").write_text("-2TGG1WFF3A\n-4oyhgzPmCw\n\n")
    (tmp_path / "gt").mkdir()
    with pytest.raises(InputError, match="no <video>"):
        list(read_mining_youtube(tmp_path, tmp_path / "gt"))
    labels = ["background"] * 4 + ["crack_egg"] * 6 + ["add_oil"] * 2 + ["crack_egg"]
    (tmp_path / "gt" / "-2TGG1WFF3A.txt").write_text("\n".join(labels))
    first, second = read_mining_youtube(tmp_path, tmp_path / "gt", 2.0)
    assert (first.video_id, first.split) == ("-2TGG1WFF3A", "test")
    assert first.captions == [
        Caption(2.0, 5.0, "crack egg"),
        Caption(5.0, 6.0, "add oil"),
        Caption(6.0, 6.5, "crack egg"),
    ]
    assert second.captions is None
    (tmp_path / "gt" / "-4oyhgzPmCw.gt").write_text("add_oil\n")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "videos_train.txt").write_text("0p9c5Rb8XDU\n")
    *_, second, third = read_mining_youtube(tmp_path, tmp_path / "gt")
    assert second.captions == [Caption(0.0, 1.0, "add oil")] and (third.split, third.captions) == ("train", None)


def test_lsmdc(tmp_path):
    name = "0050_Indiana_Jones_and_the_last_crusade_01.19.30.543-01.19.32.900"
    line = "\t".join([name, "01.19.30.543", "01.19.32.900", "a", "b", 'He "nods" at SOMEONE.'])
    (tmp_path / "train.csv").write_text(line + "\n")
    (video,) = read_lsmdc({"train": tmp_path / "train.csv"})
    assert video.video_id == "0050_Indiana_Jones_and_the_last_crusade_011930543-011932900"
    assert is_video_id(video.video_id)
    assert video.url == f"0050_Indiana_Jones_and_the_last_crusade/{name}.avi"
    assert video.captions == [Caption(0.0, pytest.approx(2.357), 'He "nods" at SOMEONE.')]
    long_name = "1054_Harry_Potter_and_the_prisoner_of_azkaban_00.01.33.000-00.01.35.500"
    (tmp_path / "long.csv").write_text("\t".join([long_name, "a", "b", "c", "d", "It flies."]) + "\n")
    (video,) = read_lsmdc({"test": tmp_path / "long.csv"})
    assert video.video_id == "1054_Harry_Potter_and_the_prisoner_of_azkaba_000133000-000135500"
    assert is_video_id(video.video_id) and video.url.endswith(f"azkaban/{long_name}.avi")
    (tmp_path / "twice.csv").write_text(f"{line}\n{line.replace('nods', 'winks')}\n")
    (video,) = read_lsmdc({"train": tmp_path / "twice.csv"})
    assert [caption.text for caption in video.captions] == ['He "nods" at SOMEONE.', 'He "winks" at SOMEONE.']
    (tmp_path / "bad.csv").write_text("x\ty\n")
    with pytest.raises(InputError, match="line 1 has 2 columns, not 6"):
        list(read_lsmdc({"train": tmp_path / "bad.csv"}))
    (tmp_path / "bad.csv").write_text("film\ta\tb\tc\td\te\n")
    with pytest.raises(InputError, match="'film' is not <film>_<start>-<end>"):
        list(read_lsmdc({"train": tmp_path / "bad.csv"}))


def test_ucf101(tmp_path):
    (tmp_path / "testlist02.txt").write_text(
        "YoYo/v_YoYo_g01_c01.avi\nHandstandPushups/v_HandStandPushups_g01_c01.avi\n"
    )
    (tmp_path / "trainlist02.txt").write_text("YoYo/v_YoYo_g08_c01.avi 101\r\n")
    found = [(video.video_id, video.url, video.split, video.category_1) for video in read_ucf101(tmp_path, fold=2)]
    assert found == [
        ("v_YoYo_g01_c01", "YoYo/v_YoYo_g01_c01.avi", "test", "YoYo"),
        (
            "v_HandStandPushups_g01_c01",
            "HandstandPushups/v_HandStandPushups_g01_c01.avi",
            "test",
            "HandStandPushups",
        ),
        ("v_YoYo_g08_c01", "YoYo/v_YoYo_g08_c01.avi", "train", "YoYo"),
    ]
    with pytest.raises(InputError, match=r"testlist01\.txt; it comes with UCF-101"):
        list(read_ucf101(tmp_path))
    (tmp_path / "testlist02.txt").write_text("v_YoYo_g01_c01.avi\n")
    with pytest.raises(InputError, match=r"line 1: 'v_YoYo_g01_c01\.avi' is not <class>/<clip>"):
        list(read_ucf101(tmp_path, fold=2))


def test_hmdb51(tmp_path):
    odd = "#122_Cleaning_Up_The_Beach_In_Chiba__Japan_pick_f_nm_np1_fr_bad_1"
    (tmp_path / "pick_test_split1.txt").write_text(f"{odd}.avi 2 \n")
    (tmp_path / "brush_hair_test_split1.txt").write_text("April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1\nshow.-).avi 0\n")
    (tmp_path / "pick_test_split2.txt").write_text("")
    first, second, third = read_hmdb51(tmp_path)
    assert (first.video_id, first.split, first.category_1) == (
        "April_09_brush_hair_u_nm_np1_ba_goo_0",
        "train",
        "brush_hair",
    )
    assert first.url == "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi"
    assert (second.split, second.url) == ("unused", "brush_hair/show.-).avi")
    assert (third.split, third.url, third.category_1) == ("test", f"pick/{odd}.avi", "pick")
    assert third.video_id.startswith("_122_Cleaning") and third.video_id != id_of_name(f"{odd[:-1]}2")
    with pytest.raises(InputError, match=r"no <class>_test_split3\.txt is in it"):
        list(read_hmdb51(tmp_path, fold=3))
    (tmp_path / "pick_test_split2.txt").write_text("a.avi 3\n")
    with pytest.raises(InputError, match=r"line 1: 'a\.avi 3' is not a clip and 0, 1 or 2"):
        list(read_hmdb51(tmp_path, fold=2))


@given(st.lists(st.text(), min_size=2, max_size=2, unique=True))
def test_any_two_names_become_two_ids(names):
    first, second = map(id_of_name, names)
    assert is_video_id(first) and is_video_id(second) and first != second
    assert id_of_name(first) == first
