from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.acquire.layout import (
    MEDIA_ENDINGS,
    find_captions,
    find_video,
    incoming_path,
    lock_path,
    unfinished_files,
    video_path,
)
from pipeline.datasets.identity import is_video_id

IDS = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,12}", fullmatch=True)


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_where_things_are(tmp_path):
    assert video_path("videos", "nVbIUDjzWY4", "mp4").as_posix() == "videos/nV/nVbIUDjzWY4.mp4"
    assert video_path("videos", "x", "webm").as_posix() == "videos/x/x.webm"
    path = touch(video_path(tmp_path, "abc", "webm"))
    assert find_video(tmp_path, "abc") == path and find_video(tmp_path, "ab") is None
    touch(tmp_path / "ab" / "abd.txt")
    touch(incoming_path(tmp_path, "abd", "mp4"))
    assert find_video(tmp_path, "abd") is None
    assert find_captions(tmp_path, "abc") is None
    vtt = touch(tmp_path / "ab" / "abc.en.vtt")
    assert find_captions(tmp_path, "abc") == vtt
    json3 = touch(tmp_path / "ab" / "abc.en.json3")
    assert find_captions(tmp_path, "abc") == json3


@given(IDS, IDS, st.sampled_from(MEDIA_ENDINGS))
@settings(max_examples=150, deadline=None)
def test_no_file_of_a_video_is_one_of_another(tmp_path_factory, one, other, ending):
    folder = tmp_path_factory.mktemp("v")
    assert is_video_id(one) and folder.resolve() in video_path(folder, one, ending).resolve().parents
    touch(video_path(folder, one, ending))
    touch(video_path(folder, one, "en.vtt"))
    touch(incoming_path(folder, one, f"{ending}.part"))
    touch(lock_path(folder, one))
    if one == other:
        assert find_video(folder, other) and find_captions(folder, other) and len(unfinished_files(folder, other)) == 1
    elif one.rpartition(".")[0] != other:  # "a.en" with captions in English beside the captions of "a" cannot be told
        assert not find_video(folder, other)
        assert not find_captions(folder, other)
        assert not unfinished_files(folder, other)
