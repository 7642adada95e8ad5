"""Features of other programs into shards and back."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch

from pipeline.convert import main
from pipeline.errors import InputError
from pipeline.shards.decoding import decode_batch
from pipeline.shards.evaluation import evaluation_clips
from pipeline.shards.reader import ShardSet
from pipeline.shards.verify import verify
from pipeline.shards.writer import ShardWriter
from pipeline.text.words import WordVectors
from tests.shards.samples import make_sample, video_tokens, write_shards

WORDS = ["--words", "corpus", "--word-dim", "8"]


def features(seconds, seed=0):
    generator = np.random.default_rng(seed)
    return {
        "2d": generator.standard_normal((seconds, 6)).astype(np.float16),
        "3d": generator.standard_normal((seconds * 3 // 2, 5)).astype(np.float32),
        "spec": generator.uniform(-80, 0, (40, seconds * 100 + 1)).astype(np.float32),
    }


def write_tree(folder, names, captions, as_pickle=True):
    """Half of the videos in folders of their own, as the programs allow."""
    for place, name in enumerate(names):
        here = folder / "Food" / name if place % 2 else folder
        here.mkdir(parents=True, exist_ok=True)
        arrays = features(20 + place, place)
        for kind, key in (("2d", "features"), ("3d", "features"), ("spec", "arr_0")):
            np.savez(here / f"{name}_{kind}.npz", **{key: arrays[kind]})
    plain = {name: {key: list(values) for key, values in value.items()} for name, value in captions.items()}
    if as_pickle:
        (folder / "caption.pickle").write_bytes(pickle.dumps(captions))
    else:
        (folder / "caption.json").write_text(json.dumps(plain))


CAPTIONS = {
    "vid-a": {"start": [0.5, 4.0], "end": [3.5, 9.0], "text": ["pour the batter", "then flip it"]},
    "vid_b": {"start": np.array([1.0]), "end": np.array([2.0]), "text": ["the batter"]},
    "vid-d": {"start": [], "end": [], "text": []},
}


@pytest.mark.parametrize("as_pickle", [True, False])
def test_a_tree_of_npz_files(tmp_path, capsys, as_pickle):
    tree, shards = tmp_path / "tree", tmp_path / "set"
    names = ["vid-a", "vid_b", "vid-c", "vid-d"]
    write_tree(tree, names, CAPTIONS, as_pickle)
    (tree / "vid-c_3d.npz").write_bytes(b"PK\x03\x04 cut off")
    captions = tree / ("caption.pickle" if as_pickle else "caption.json")
    command = ["npz", str(tree), "--captions", str(captions), "--shards", str(shards), "--split", "test", *WORDS]
    main(command)
    output = capsys.readouterr()
    assert "vid-c_3d.npz" in output.out
    assert "4 written, 0 were there, 1 refused" in output.err
    found = ShardSet(shards)
    assert found.ids == sorted(names)
    words = WordVectors.load(shards / "words.parquet")
    for place, name in enumerate(names):
        sample, arrays = found.read(name), features(20 + place, place)
        np.testing.assert_array_equal(sample.arrays["2d"], arrays["2d"])
        np.testing.assert_array_equal(sample.arrays["audio"], arrays["spec"].T.astype(np.float16))
        assert ("3d" in sample.arrays) == (name != "vid-c")
        expected = CAPTIONS.get(name, {"text": []})["text"]
        assert [caption.text for caption in sample.captions] == expected
        if expected:
            ids = sample.arrays["text"][: sample.caption_words[1]].tolist()
            assert [words.words[id] for id in ids] == expected[0].split()
        assert sample.split == "test"
    assert verify(shards).problems == []
    main(command)
    assert "0 written, 4 were there" in capsys.readouterr().err


def broken_files(tree):
    """Files of videos whose 2D features are sound, each damaged in another way."""
    good = tree / "good_3d.npz"
    np.savez_compressed(good, features=np.random.default_rng(1).standard_normal((40, 50)))
    whole = good.read_bytes()
    (tree / "zlib_3d.npz").write_bytes(whole[:70] + b"\xff" * 9 + whole[79:])
    plain = io.BytesIO()
    np.save(plain, np.zeros((3, 2)))
    header = plain.getvalue()
    with zipfile.ZipFile(tree / "token_3d.npz", "w") as archive:
        archive.writestr("features.npy", header.replace(b"'shape': (3, 2)", b"'shape': ((((,2"))
    with zipfile.ZipFile(tree / "huge_3d.npz", "w") as archive:
        archive.writestr("features.npy", header.replace(b"(3, 2), } ".ljust(25), b"(10000000000000, 2), } ".ljust(25)))
    np.savez(tree / "flat_3d.npz", features=np.zeros(0))
    np.savez(tree / "thin_3d.npz", features=np.zeros((7, 0)))
    names = ["zlib", "token", "huge", "flat", "thin"]
    for name in ["good", *names]:
        np.savez(tree / f"{name}_2d.npz", features=np.ones((9, 3)))
    return names


def test_a_damaged_file_is_named_and_costs_only_itself(tmp_path, capsys):
    tree = tmp_path / "tree"
    tree.mkdir()
    names = broken_files(tree)
    main(["npz", str(tree), "--shards", str(tmp_path / "set"), *WORDS])
    output = capsys.readouterr()
    for name in names:
        assert f"{name}_3d.npz: left out: " in output.out, name
    assert "flat_3d.npz: left out: ValueError: empty, of shape [0]" in output.out
    assert "6 written, 0 were there, 5 refused" in output.err
    shards = ShardSet(tmp_path / "set")
    for name in ["good", *names]:
        assert set(shards.read(name).arrays) == ({"2d", "3d"} if name == "good" else {"2d"})


@pytest.mark.parametrize("as_pickle", [True, False])
def test_captions_that_are_none_cost_no_other_video(tmp_path, capsys, as_pickle):
    names = ["good", "number", "dict", "short", "huge"]
    captions = {
        "good": {"start": [1.0], "end": [2.0], "text": ["flip \ud83d it"]},
        "number": 3,
        "dict": {"start": 3},
        "short": {"start": [1, 2], "end": [2], "text": ["flip"]},
        "huge": {"start": [10**400], "end": [2], "text": ["flip"]},
    }
    write_tree(tmp_path / "tree", names, {})
    target = tmp_path / ("caption.pickle" if as_pickle else "caption.json")
    target.write_bytes(pickle.dumps(captions, 4) if as_pickle else json.dumps(captions).encode())
    main(["npz", str(tmp_path / "tree"), "--captions", str(target), "--shards", str(tmp_path / "set"), *WORDS])
    output = capsys.readouterr()
    for name in names[1:]:
        assert f"{target}: the captions of {name} are left out: not lists of start, end and text" in output.out
    assert "5 written, 0 were there, 4 refused" in output.err
    shards = ShardSet(tmp_path / "set")
    assert shards.read("good").captions == [(1.0, 2.0, "flip \ufffd it")]
    assert all(not shards.read(name).captions and len(shards.read(name).arrays) == 3 for name in names[1:])


def test_a_list_as_spreadsheets_write_it(tmp_path, capsys):
    write_tree(tmp_path / "tree", ["one", "two", "three"], {})
    (tmp_path / "list.csv").write_text("video_id,category,path\none,Food,x\n\n,Food\ntwo\n", encoding="utf-8-sig")
    command = ["npz", str(tmp_path / "tree"), "--list", str(tmp_path / "list.csv"), *WORDS]
    main([*command, "--shards", str(tmp_path / "set")])
    output = capsys.readouterr()
    assert "list.csv: line 4 is left out: it has no video_id" in output.out
    assert "2 written, 0 were there, 1 refused" in output.err
    assert ShardSet(tmp_path / "set").ids == ["one", "two"]
    (tmp_path / "list.csv").write_text("category,path\nFood,tree/one\nFood\n")
    main([*command, "--shards", str(tmp_path / "short")])
    assert "line 3 is left out: it has no path" in capsys.readouterr().out
    (tmp_path / "list.csv").write_bytes(b"video_id\n\xff\xfe\n")
    with pytest.raises(InputError, match=r"list\.csv: not a CSV file of UTF-8 text"):
        main([*command, "--shards", str(tmp_path / "binary")])


@pytest.mark.parametrize("listed", ["path\nNone/two\n", "video_id,category_1,path\ntwo,Food,features/two.mp4.npy\n"])
def test_a_list_takes_some(tmp_path, listed):
    write_tree(tmp_path / "tree", ["one", "two"], {})
    (tmp_path / "list.csv").write_text(listed)
    main(
        ["npz", str(tmp_path / "tree"), "--list", str(tmp_path / "list.csv"), "--shards", str(tmp_path / "set"), *WORDS]
    )
    assert ShardSet(tmp_path / "set").ids == ["two"]


def test_s3d_features_of_mft_are_in_a_tree_of_their_own(tmp_path):
    for folder, name, arrays in (
        ("s3d", "vid_a.npz", {"features": np.ones((9, 4), np.float32)}),
        ("audio", "vid_a_spec.npz", {"arr_0": np.zeros((40, 901), np.float16)}),
    ):
        (tmp_path / folder / "food" / "vid_a").mkdir(parents=True)
        np.savez(tmp_path / folder / "food" / "vid_a" / name, **arrays)
    trees = [str(tmp_path / folder) for folder in ("s3d", "audio")]
    main(["npz", *trees, "--rate-3d", "1", "--shards", str(tmp_path / "set"), *WORDS])
    sample = ShardSet(tmp_path / "set").read("vid_a")
    assert (sorted(sample.arrays), sample.rates["3d"]) == (["3d", "audio"], 1.0)


def test_features_of_crosstask_with_sound_in_a_folder_of_its_own(tmp_path):
    for folder in ("features", "audio"):
        (tmp_path / folder).mkdir()
    for name in ("vid-a", "vid-b"):
        np.save(tmp_path / "features" / f"{name}_2d.npy", np.ones((9, 4), np.float32))
        np.save(tmp_path / "features" / f"{name}_3d.npy", np.full((13, 4), 2.0, np.float32))
        np.savez(tmp_path / "audio" / f"{name}.npz", np.full((40, 901), -7.0, np.float16))
    for name, folders in (("both", [tmp_path / "features", tmp_path / "audio"]), ("above", [tmp_path])):
        main(["npz", *map(str, folders), "--shards", str(tmp_path / name), *WORDS])
        shards = ShardSet(tmp_path / name)
        assert sorted(shards.ids) == ["vid-a", "vid-b"]
        arrays = shards.read("vid-b").arrays
        assert {key: array.shape for key, array in arrays.items()} == {"2d": (9, 4), "3d": (13, 4), "audio": (901, 40)}
        assert (arrays["3d"] == 2).all() and (arrays["audio"] == -7).all()


def test_npy_files_of_howto100m(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    array = np.arange(20, dtype=np.float32).reshape(10, 2)
    np.save(tree / "vid-a.mp4.npy", array)
    main(["npy", str(tree), "--modality", "3d", "--rate-3d", "1", "--shards", str(tmp_path / "set"), *WORDS])
    sample = ShardSet(tmp_path / "set").read("vid-a")
    assert list(sample.arrays) == ["3d"]
    assert (sample.rates, sample.duration) == ({"3d": 1.0}, 10.0)
    np.testing.assert_array_equal(sample.arrays["3d"], array)


def youcook(path, clips=4):
    """As MCN's and MFT's file is: pooled and full features, one caption, ids of videos, some keys missing."""
    entries = []
    for place in range(clips):
        arrays = features(15 + place, place)
        entries.append(
            {
                "id": "GLd3aX16zBg" if place < 2 else f"other-{place}",
                "2d": arrays["2d"].max(0).astype(np.float32),
                "3d": arrays["3d"].max(0),
                "2d_full": arrays["2d"].astype(np.float32),
                "3d_full": arrays["3d"],
                "audio": torch.from_numpy(arrays["spec"]),
                "caption": f"pour the batter {place}",
            }
        )
    del entries[3]["2d_full"], entries[3]["2d"]
    path.write_bytes(pickle.dumps(entries))
    return entries


def test_clips_of_youcook2_give_what_the_published_program_sees(tmp_path, capsys):
    entries = youcook(tmp_path / "val.pkl")
    shards = tmp_path / "set"
    main(["pkl", f"test={tmp_path / 'val.pkl'}", "--complete", "--shards", str(shards), *WORDS])
    assert "clip 3 (other-3) is left out, it has no 2d" in capsys.readouterr().out
    (batch,) = map(decode_batch, evaluation_clips(ShardSet(shards), "test"))
    assert batch["clip_ids"] == ["GLd3aX16zBg/0", "GLd3aX16zBg.1/0", "other-2/0"]
    assert batch["texts"] == [entry["caption"] for entry in entries[:3]]
    for place, entry in enumerate(entries[:3]):
        full = [entry[key].astype(np.float16).astype(np.float32) for key in ("2d_full", "3d_full")]
        np.testing.assert_allclose(batch["video"][place], video_tokens(*full, 12, "clip")[0], rtol=1e-6)
        frames = min(768, entry["audio"].shape[1])
        assert int(batch["audio_nframes"][place]) == frames
        expected = entry["audio"][:, :frames].half().float()
        assert torch.equal(batch["audio"][place, :, :frames], expected)


def stronger(path, entries, key="clip"):
    """Features of another backbone of the same clips, in a file of their own."""
    others = [{"id": entry["id"], key: np.full((4, 3), place, np.float32)} for place, entry in enumerate(entries)]
    path.write_bytes(pickle.dumps(others))
    return others


def test_features_of_a_stronger_backbone_are_in_another_file(tmp_path, capsys):
    entries = youcook(tmp_path / "val.pkl")
    stronger(tmp_path / "s3d.pkl", entries, "s3d")
    command = ["pkl", f"test={tmp_path}/val.pkl", "--features", f"test={tmp_path}/s3d.pkl", "--key-3d", "s3d"]
    main([*command, "--rate-3d", "1", "--shards", str(tmp_path / "set"), *WORDS])
    shards = ShardSet(tmp_path / "set")
    sample = shards.read("other-2")
    assert set(sample.arrays) == {"3d", "audio", "text"}
    np.testing.assert_array_equal(sample.arrays["3d"], np.full((4, 3), 2, np.float16))
    assert len(shards) == 4
    main([*command, "--complete", "--shards", str(tmp_path / "complete"), *WORDS])
    assert "clip 3 (other-3) is left out, it has no 2d" in capsys.readouterr().out
    assert len(ShardSet(tmp_path / "complete")) == 3


def test_features_by_another_name_in_the_same_file(tmp_path):
    entry = {"id": "one", "2d": np.ones((2, 5), np.float32), "clip": np.zeros((3, 4), np.float32), "caption": "flip"}
    (tmp_path / "val.pkl").write_bytes(pickle.dumps([entry]))
    main(["pkl", f"test={tmp_path}/val.pkl", "--key-2d", "clip", "--shards", str(tmp_path / "set"), *WORDS])
    assert ShardSet(tmp_path / "set").read("one").arrays["2d"].shape == (3, 4)


def test_pooled_features_of_lsmdc(tmp_path, capsys):
    whole = {"2d_pooled": torch.ones(5), "3d_pooled": torch.zeros(4), "audio": torch.zeros(40, 300), "caption": "flip"}
    entries = [whole | {"id": "one"}, whole | {"id": "two", "3d_pooled": None}]
    (tmp_path / "test.pkl").write_bytes(pickle.dumps(entries))
    main(["pkl", f"test={tmp_path}/test.pkl", "--complete", "--shards", str(tmp_path / "set"), *WORDS])
    assert "clip 1 (two) is left out, it has no 3d" in capsys.readouterr().out
    shards = ShardSet(tmp_path / "set")
    assert shards.ids == ["one"]
    assert shards.read("one").arrays["2d"].shape == (1, 5)


def test_clips_of_odd_values_are_named_and_cost_no_other(tmp_path, capsys):
    features = torch.ones(2, 5)
    entries = [
        {"id": "number", "2d": features.clone().requires_grad_(), "caption": 7},
        {"id": "nan", "2d": features.bfloat16(), "caption": float("nan")},
        {"id": "bytes", "2d": features.half(), "caption": b"flip it"},
        {"id": "none", "2d": features, "caption": [None, "pour"]},
        {"id": "array", "2d": features, "caption": np.array(["pour", "flip"])},
        {"id": "flat", "2d": np.zeros(0), "3d": torch.ones(4), "caption": "flip \ud83d"},
        {"id": "thin", "2d": torch.zeros(3, 0), "3d": torch.ones(4), "caption": {"text": "flip"}},
        {"id": "whole", "2d": torch.ones(2, 5, dtype=torch.complex64), "3d": torch.ones(4), "caption": ("flip",)},
    ]
    (tmp_path / "val.pkl").write_bytes(pickle.dumps(entries))
    main(["pkl", f"test={tmp_path}/val.pkl", "--shards", str(tmp_path / "set"), *WORDS])
    output = capsys.readouterr()
    assert "8 written, 0 were there, 6 refused" in output.err
    for message in (
        "clip 1 (nan): a caption is left out: not a text but nan",
        "clip 3 (none): a caption is left out: not a text but None",
        "clip 5 (flat): 2d is left out: empty, of shape [0]",
        "clip 6 (thin): 2d is left out: empty, of shape [3, 0]",
        "clip 6 (thin): a caption is left out: not a text but {'text': 'flip'}",
        "clip 7 (whole): 2d is left out: not an array of numbers",
    ):
        assert f"val.pkl: {message}" in output.out
    found = {name: ShardSet(tmp_path / "set").read(name) for name in ShardSet(tmp_path / "set").ids}
    assert {name: [caption.text for caption in sample.captions] for name, sample in found.items()} == {
        "number": ["7"], "nan": [], "bytes": ["flip it"], "none": ["pour"], "array": ["pour", "flip"],
        "flat": ["flip \ufffd"], "thin": [], "whole": ["flip"],
    }  # fmt: skip
    for name in ("number", "nan", "bytes"):
        np.testing.assert_array_equal(found[name].arrays["2d"], np.ones((2, 5)))
    assert [batch["clip_ids"] for batch in map(decode_batch, evaluation_clips(ShardSet(tmp_path / "set"), "test"))]


def test_clips_without_ids_of_several_files_do_not_get_the_same(tmp_path, capsys):
    files = []
    for split, name in (("train", "clips"), ("test", "clips"), ("test", "more clips of a very long name, forty or so")):
        path = tmp_path / split / f"{name}.pkl"
        path.parent.mkdir(exist_ok=True)
        clips = [{"2d": np.ones((2, 5)), "caption": "flip"}, {"id": None, "2d": np.ones((2, 5)), "caption": "pour"}]
        path.write_bytes(pickle.dumps(clips))
        files.append(f"{split}={path}")
    main(["pkl", *files, "--shards", str(tmp_path / "set"), *WORDS])
    assert "6 written, 0 were there, 0 refused" in capsys.readouterr().err
    assert sorted(ShardSet(tmp_path / "set").ids) == [
        "test-clips-0", "test-clips-1", "test-more_clips_of_a_very_long_name__for-0",
        "test-more_clips_of_a_very_long_name__for-1", "train-clips-0", "train-clips-1",
    ]  # fmt: skip


def test_another_clip_of_an_id_that_is_there_is_named(tmp_path, capsys):
    def convert(folder, *clips, split="test"):
        path = tmp_path / folder / "clips.pkl"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps([{"2d": np.full((2, 5), value), "caption": text} for value, text in clips]))
        main(["pkl", f"{split}={path}", "--shards", str(tmp_path / "set"), *WORDS])
        return capsys.readouterr()

    convert("a", (0.1, "flip"), (2, "pour"), (3, "stir"))
    said = convert("a", (0.1, "flip"), (2, "pour"), (3, "stir"), (4, "cut"))
    assert "1 written, 3 were there, 0 refused" in said.err
    said = convert("b", (0.1, "flip"), (2.5, "pour"), (3, "stir it"))
    assert "0 written, 4 were there, 2 refused" in said.err
    for clip in ("test-clips-1", "test-clips-2"):
        assert f"clip {clip} is left out: another of this id, of an earlier conversion, is there" in said.out


def stopping_after(samples):
    """A writer's ``add`` that is interrupted once so many samples are there."""
    add, left = ShardWriter.add, iter(range(samples))

    def stop(writer, sample):
        if next(left, None) is None:
            raise KeyboardInterrupt
        add(writer, sample)

    return stop


def test_a_conversion_of_clips_that_was_stopped_goes_on_with_the_same_ids(tmp_path, monkeypatch):
    ids = [["v", None, "v", None], ["v", None, None]]
    files = []
    for place, names in enumerate(ids):
        path = tmp_path / str(place) / "clips.pkl"
        path.parent.mkdir()
        path.write_bytes(
            pickle.dumps([{"id": name, "2d": np.full((2, 5), n), "caption": "flip"} for n, name in enumerate(names)])
        )
        files.append(f"test={path}")
    command = ["pkl", *files, *WORDS, "--shards"]
    main([*command, str(tmp_path / "set")])
    whole = {name: ShardSet(tmp_path / "set").read(name).arrays["2d"][0, 0] for name in ShardSet(tmp_path / "set").ids}
    assert whole == {
        "v": 0, "test-clips-1": 1, "v.1": 2, "test-clips-3": 3, "v.2": 0, "test-clips-1.1": 1, "test-clips-2": 2,
    }  # fmt: skip
    for stopped in range(len(whole)):
        folder = tmp_path / f"stopped-{stopped}" / "set"
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(ShardWriter, "add", stopping_after(stopped))
            main([*command, str(folder)])
        main([*command, str(folder)])
        assert {name: ShardSet(folder).read(name).arrays["2d"][0, 0] for name in ShardSet(folder).ids} == whole


def test_features_of_other_clips_are_refused(tmp_path):
    entries = youcook(tmp_path / "val.pkl")
    command = ["pkl", f"test={tmp_path}/val.pkl", "--shards", str(tmp_path / "set"), *WORDS]
    features = ["--features", f"test={tmp_path}/clip.pkl", "--key-2d", "clip"]
    others = stronger(tmp_path / "clip.pkl", entries)
    with pytest.raises(InputError, match="no clip has the key slip; there are clip, id"):
        main([*command, *features[:2], "--key-2d", "slip"])
    with pytest.raises(InputError, match="with the same splits"):
        main([*command, "--features", f"train={tmp_path}/clip.pkl"])
    (tmp_path / "clip.pkl").write_bytes(pickle.dumps(others[::-1]))
    with pytest.raises(InputError, match=r"clip 0 is other-3 and that of .* GLd3aX16zBg: not the same clips"):
        main([*command, *features])
    (tmp_path / "clip.pkl").write_bytes(pickle.dumps(others[:3]))
    with pytest.raises(InputError, match=r"clip\.pkl: has 3 clips and .*val\.pkl 4"):
        main([*command, *features])


def test_ids_of_clips_pieces_do_not_come_beside_ids_of_words(tmp_path):
    pytest.importorskip("open_clip")
    entry = {"id": "one", "2d": np.ones((2, 5), np.float32), "caption": "flip it"}
    (tmp_path / "val.pkl").write_bytes(pickle.dumps([entry]))
    command = ["pkl", f"test={tmp_path}/val.pkl", "--shards", str(tmp_path / "set")]
    main([*command, "--words", "clip"])
    main([*command, "--words", "clip"])
    assert ShardSet(tmp_path / "set").read("one").arrays["text"].tolist() == [11035, 585]
    with pytest.raises(InputError, match=r"words\.parquet: the ids here stand for CLIP's pieces, not for corpus"):
        main([*command, *WORDS])


def test_every_frame_of_a_short_clip_is_there(tmp_path):
    entry = {"id": 7, "2d": np.ones(4, np.float32), "audio": torch.zeros(40, 333), "caption": "flip"}
    (tmp_path / "val.pkl").write_bytes(pickle.dumps([entry]))
    main(["pkl", f"test={tmp_path / 'val.pkl'}", "--shards", str(tmp_path / "set"), *WORDS])
    (batch,) = map(decode_batch, evaluation_clips(ShardSet(tmp_path / "set"), "test"))
    assert int(batch["audio_nframes"][0]) == 333
    assert batch["video_mask"][0].sum() == 1


def test_clips_of_msrvtt_have_many_captions_and_one_to_test(tmp_path):
    entry = {"id": "video7020", "2d": features(9)["2d"], "3d": features(9)["3d"], "audio": torch.zeros(40, 901),
             "caption": ["flip", "pour it", "then"], "eval_caption": "pour it"}  # fmt: skip
    for name in ("train", "test"):
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps([entry | {"id": name}]))
    main(
        [
            "pkl",
            *(f"{name}={tmp_path / name}.pkl" for name in ("train", "test")),
            "--shards",
            str(tmp_path / "set"),
            *WORDS,
        ]
    )
    shards = ShardSet(tmp_path / "set")
    assert [caption.text for caption in shards.read("train").captions] == ["flip", "pour it", "then"]
    assert [caption.text for caption in shards.read("test").captions] == ["pour it"]
    assert {(caption.start, caption.end) for caption in shards.read("train").captions} == {
        (0.0, shards.read("train").duration)
    }


def test_words_of_a_later_conversion_are_added(tmp_path):
    (tmp_path / "vectors.txt").write_text("4 2\nflip 1 0\npour 0 1\nit 1 1\nthen 2 2\n")
    for name, text in (("train", "pour it"), ("test", "then flip it")):
        entry = {"id": name, "2d": features(9)["2d"], "caption": text}
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps([entry]))
        main(
            [
                "pkl",
                f"{name}={tmp_path / name}.pkl",
                "--shards",
                str(tmp_path / "set"),
                "--words",
                str(tmp_path / "vectors.txt"),
            ]
        )
    words = WordVectors.load(tmp_path / "set" / "words.parquet")
    shards = ShardSet(tmp_path / "set")
    for name, text in (("train", "pour it"), ("test", "then flip it")):
        assert [words.words[id] for id in shards.read(name).arrays["text"]] == text.split()
    np.testing.assert_array_equal(words.vectors[words.words.index("then")], [2, 2])
    stored = (tmp_path / "set" / "words.parquet").read_bytes()
    for vectors, message in (
        ("1 3\nflip 1 0 0\n", r"vectors of 2 dimensions and .* of 3; convert with the same --words"),
        ("2 2\nflip 1 0\nthen 2 1\n", r"other\.txt has another vector for 'then'; convert with the same --words"),
        ("1 2\nstir 1 0\n", r"other\.txt has none of the words here, .* or into another folder"),
    ):
        (tmp_path / "other.txt").write_text(vectors)
        command = ["pkl", f"test={tmp_path}/test.pkl", "--shards", str(tmp_path / "set")]
        with pytest.raises(InputError, match=message):
            main([*command, "--words", str(tmp_path / "other.txt")])
    assert (tmp_path / "set" / "words.parquet").read_bytes() == stored


def test_shards_become_a_tree_and_come_back(tmp_path, capsys):
    samples = [make_sample("one"), make_sample("two", split="test"), make_sample("quiet", modalities=("text", "2d"))]
    samples.append(make_sample("mute", modalities=("2d", "3d", "audio")))
    source = write_shards(tmp_path / "source", samples)
    main(["to-npz", str(source), str(tmp_path / "tree")])
    output = capsys.readouterr().err
    assert "2 videos without some modality or captions" in output
    assert (tmp_path / "tree" / "train.csv").read_text() == "path\none\n"
    assert (tmp_path / "tree" / "test.csv").read_text() == "path\ntwo\n"
    assert np.load(tmp_path / "tree" / "one" / "one_spec.npz")["arr_0"].shape == (40, 3000)
    captions = str(tmp_path / "tree" / "caption.pickle")
    main(["npz", str(tmp_path / "tree"), "--captions", captions, "--shards", str(tmp_path / "back"), *WORDS])
    back = ShardSet(tmp_path / "back")
    for sample in samples:
        found = back.read(sample.video_id)
        assert found.captions == sample.captions
        for modality in set(sample.arrays) - {"text"}:
            np.testing.assert_array_equal(found.arrays[modality], sample.arrays[modality])


def test_shards_become_clips_and_come_back(tmp_path):
    source = write_shards(tmp_path / "source", [make_sample("one", split="test"), make_sample("two")])
    main(["to-pkl", str(source), str(tmp_path / "clips.pkl")])
    main(["pkl", f"test={tmp_path / 'clips.pkl'}", "--shards", str(tmp_path / "back"), *WORDS])
    for expected, found in zip(
        *(map(decode_batch, evaluation_clips(ShardSet(place), "test")) for place in (source, tmp_path / "back")),
        strict=True,
    ):
        assert found["texts"] == expected["texts"]
        for name in ("video", "video_mask", "audio", "audio_mask"):
            assert torch.equal(found[name], expected[name]), name


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        (("text", "2d"), "no captions in split val; there are some in test, train: give --split"),
        (("2d",), "none of its videos has captions"),
    ],
)
def test_a_split_without_clips_leaves_an_older_file_as_it_is(tmp_path, modalities, message):
    samples = [make_sample(name, split=name, modalities=modalities) for name in ("test", "train")]
    source, target = write_shards(tmp_path / "source", samples), tmp_path / "clips.pkl"
    target.write_bytes(b"a good one")
    with pytest.raises(InputError, match=message):
        main(["to-pkl", str(source), str(target), "--split", "val"])
    assert target.read_bytes() == b"a good one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips.pkl", "source"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["npz", "{path}", "--shards", "s"], "holds no <id>_2d.npz"),
        (["npz", "{path}/none", "--shards", "s"], "no such folder of features"),
        (["npz", "{path}", "--list", "none.csv", "--shards", "s"], "no such list"),
        (["npz", "{path}", "--captions", "{path}/list.pkl", "--shards", "s"], "not captions by video id but a list"),
        (["pkl", "{path}/list.pkl", "--shards", "s"], "give each file with its split"),
        (["pkl", "test={path}/list.pkl", "--shards", "s"], "not a list of clips"),
        (["to-pkl", "{path}", "x.pkl"], "holds no shards"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(InputError, match=message) as caught:
        main([argument.format(path=tmp_path) for argument in arguments])
    assert "\n" not in str(caught.value)
