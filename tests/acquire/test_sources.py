import base64
import pickle
from argparse import Namespace

import pytest

from pipeline.acquire.client import Downloader
from pipeline.acquire.layout import find_captions, find_video
from pipeline.acquire.sources import Place, Sources, find_credentials, find_in_folder, without_secrets
from pipeline.acquire.subtitles import choose_subtitles
from pipeline.config import DownloadSettings
from pipeline.datasets.generic import read_table
from pipeline.demo.mirror import Fault, Mirror
from pipeline.download import take_sources
from pipeline.errors import InputError
from pipeline.extract import destination_of
from pipeline.media.captions import read_captions
from pipeline.types import Video

SECRET = "p@ss/wörd"


def places(video, **settings):
    return list(Sources(DownloadSettings(**settings)).of(video))


def test_where_a_video_is_looked_for(tmp_path):
    youtube = Place("youtube.com", "https://www.youtube.com/watch?v=a-b")
    mirror = Place("m.org", "http://m.org/a-b.mp4")
    assert places(Video("a-b")) == [youtube]
    assert places(Video("a-b", "http://h.org/x.mp4")) == [Place("h.org", "http://h.org/x.mp4")]
    chain = ["http://m.org/{video_id}.mp4", str(tmp_path)]
    folder = Place(str(tmp_path), folder=tmp_path)
    assert places(Video("a-b"), sources=chain) == [mirror, folder, youtube]
    assert places(Video("a-b"), sources=chain, template=None) == [mirror, folder]
    assert places(Video("a-b", "film/clip.avi"), sources=[str(tmp_path)]) == [folder]
    named = Video("nVbIUDjzWY4", "/data/htm/nVbIUDjzWY4.webm")
    assert places(named, sources=[str(tmp_path)])[1].url == "https://www.youtube.com/watch?v=nVbIUDjzWY4"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "http://h/{id}.mp4"}, "may hold {video_id}"),
        ({"template": "http://h/{video_id.mp4}"}, "may hold {video_id}"),
        ({"template": "http://h/{video_id[a]}"}, "may hold {video_id}"),
        ({"template": "http://h/always.mp4"}, "the same for all videos"),
        ({"sources": ["http://user:secret@h/{video_id}"]}, "a password in a URL is seen by all"),
        ({"template": "http://secret@h/{video_id}"}, "a password in a URL is seen by all"),
        ({"sources": ["no/such/folder"]}, "there is no folder no/such/folder"),
        ({"template": None}, "nowhere to look"),
        ({"proxy": "http://user:secret@proxy:8080"}, "put the proxy into HTTPS_PROXY"),
    ],
)
def test_sources_that_cannot_work_are_said_at_once(settings, message):
    with pytest.raises(InputError, match=message) as caught:
        Sources(DownloadSettings(**settings))
    assert "secret" not in str(caught.value)


def test_workers_with_another_working_directory_get_paths_that_hold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = DownloadSettings(sources=["http://m.org/{video_id}.mp4"], cookies="cookies.txt")
    take_sources(Namespace(source=["mine"], template=None), settings)
    assert settings.sources == [str(tmp_path / "mine"), "http://m.org/{video_id}.mp4"]
    assert settings.cookies == str(tmp_path / "cookies.txt") and settings.template == DownloadSettings().template
    take_sources(Namespace(source=[], template="null"), settings)
    assert settings.template is None
    assert destination_of(Namespace(upload="store", remove_uploaded=True)).url == str(tmp_path / "store")
    assert destination_of(Namespace(upload="s3://bucket/a", remove_uploaded=False)).url == "s3://bucket/a"


def test_files_of_a_folder(tmp_path):
    for name in ("ab1.mp4", "ab/ab2.webm", "film/clip.avi"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_in_folder(tmp_path, Video("ab1")) == tmp_path / "ab1.mp4"
    assert find_in_folder(tmp_path, Video("ab2")) == tmp_path / "ab" / "ab2.webm"
    assert find_in_folder(tmp_path, Video("x", "film/clip.avi")) == tmp_path / "film" / "clip.avi"
    assert find_in_folder(tmp_path / "film", Video("x", "../ab1.mp4")) is None
    assert find_in_folder(tmp_path, Video("ab1", "/data/ab1.mp4")) == tmp_path / "ab1.mp4"
    assert find_in_folder(tmp_path, Video("ab3")) is None


@pytest.mark.parametrize("name", ["GOPR1.MP4", "ab/OLD.AVI", "00001.MTS", "GOPR1.m2ts"])
def test_files_as_cameras_call_them(tmp_path, name):
    video = tmp_path / name
    video.parent.mkdir(exist_ok=True)
    video.touch()
    (found,) = read_table(_written(tmp_path / "list.txt", name))
    assert find_in_folder(tmp_path, found) == video


def test_a_link_in_a_folder_leads_where_it_may_and_a_list_does_not(tmp_path):
    ours, others = tmp_path / "ours", tmp_path / "others"
    ours.mkdir()
    others.mkdir()
    (others / "bread 1.mov").touch()
    (ours / "bread 1.mov").symlink_to(others / "bread 1.mov")
    (ours / "linked").symlink_to(others)
    assert find_in_folder(ours, Video("x", "bread 1.mov")) == ours / "bread 1.mov"
    assert find_in_folder(ours, Video("x", "linked/bread 1.mov")) == ours / "linked" / "bread 1.mov"
    assert find_in_folder(ours, Video("x", "../others/bread 1.mov")) is None
    assert find_in_folder(ours, Video("x", str(others / "bread 1.mov"))) is None


def _written(path, text):
    path.write_text(text)
    return path


def fetch(settings, folder, video="a0", with_captions=False):
    downloader = Downloader(settings, folder, credentials=find_credentials(settings))
    row = downloader.fetch(Video(video) if isinstance(video, str) else video, with_captions)
    downloader.close()
    return row


def test_the_next_source_is_asked_when_one_has_not_got_it(tmp_path, corpus, quick):
    with Mirror(corpus, {"a0.mp4": Fault("status", status=404)}) as first, Mirror(corpus) as second:
        quick.sources, quick.template = [first.url + "/{video_id}.mp4"], second.url + "/{video_id}.mp4"
        row = fetch(quick, tmp_path / "v")
        assert (row.outcome, row.attempts) == ("done", 2) and second.requests["a0.mp4"] == 1
        fetch(quick, tmp_path / "v", "a1")
        assert "a1.mp4" not in second.requests
        row = fetch(quick, tmp_path / "v", "nowhere")
    assert (row.reason, row.attempts) == ("not_found", 2) and row.message.count("404") == 2


def test_the_next_source_is_not_asked_when_one_is_out_of_order(tmp_path, corpus, quick):
    with Mirror(corpus, {"a0.mp4": Fault("status")}) as first, Mirror(corpus) as second:
        quick.sources, quick.template = [first.url + "/{video_id}.mp4"], second.url + "/{video_id}.mp4"
        row = fetch(quick, tmp_path / "v")
    assert (row.reason, row.attempts) == ("network", 4) and not second.requests


def test_a_local_folder(tmp_path, corpus, quick, video_file):
    quick.sources, quick.template = [str(corpus)], None
    (corpus / "film").mkdir()
    (corpus / "film" / "clip.avi").write_bytes(video_file.read_bytes())
    (corpus / "bad.mp4").write_bytes(b"no video")
    row = fetch(quick, tmp_path / "v")
    assert (row.outcome, row.bytes) == ("done", 0)
    assert find_video(tmp_path / "v", "a0").read_bytes() == video_file.read_bytes()
    assert fetch(quick, tmp_path / "v", Video("clip", "film/clip.avi")).outcome == "done"
    assert fetch(quick, tmp_path / "v", "a99").reason == "not_found"
    assert fetch(quick, tmp_path / "v", "bad").reason == "corrupt"
    assert (corpus / "bad.mp4").exists() and (corpus / "a0.mp4").exists()


def test_user_and_password_reach_their_host_alone_and_are_never_shown(tmp_path, corpus, quick, monkeypatch):
    monkeypatch.setenv("DOWNLOAD_USER", "me")
    monkeypatch.setenv("DOWNLOAD_PASSWORD", SECRET)
    (corpus / "page").write_text("<html><body><video src='a1.mp4'></video></body></html>")
    with Mirror(corpus, login=("me", SECRET)) as closed, Mirror(corpus, login=("me", SECRET)) as other:
        quick.template, quick.auth_host = closed.url + "/{video_id}.mp4", closed.url.removeprefix("http://")
        assert fetch(quick, tmp_path / "v").outcome == "done"
        missing = fetch(quick, tmp_path / "v", "nothing")
        assert missing.reason == "not_found" and SECRET not in missing.message
        stranger = fetch(quick, tmp_path / "v", Video("b", other.url + "/a0.mp4"))
        assert stranger.reason == "auth_failed"
        assert fetch(quick, tmp_path / "v", Video("c", closed.url + "/page")).outcome == "done"
        page = fetch(quick, tmp_path / "v", Video("d", closed.url + "/no-page"))
        encoded = base64.b64encode(f"me:{SECRET}".encode()).decode()
        assert page.reason == "not_found" and SECRET not in page.message and encoded not in page.message


def test_a_redirect_to_another_host_does_not_take_the_password_along(tmp_path, corpus, quick, monkeypatch):
    monkeypatch.setenv("DOWNLOAD_USER", "me")
    monkeypatch.setenv("DOWNLOAD_PASSWORD", SECRET)
    with Mirror(corpus, login=("me", SECRET)) as other:
        with Mirror(corpus, {"a0.mp4": Fault("redirect", to=other.url + "/a0.mp4")}) as closed:
            quick.template, quick.auth_host = closed.url + "/{video_id}.mp4", closed.url.removeprefix("http://")
            row = fetch(quick, tmp_path / "v")
        assert row.reason == "auth_failed" and other.requests["a0.mp4"] == 1


def test_credentials(tmp_path, monkeypatch):
    monkeypatch.delenv("DOWNLOAD_USER", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    settings = DownloadSettings(auth_host="m.org")
    assert find_credentials(DownloadSettings()) is None
    with pytest.raises(InputError, match=r"no user id and password for m\.org"):
        find_credentials(settings)
    (tmp_path / "netrc").write_text("machine m.org login me password secret\n")
    found = find_credentials(settings)
    assert (found.user, found.password) == ("me", "secret")
    assert "secret" not in repr(found) and pickle.loads(pickle.dumps(found)) == found
    assert found.belong_to("https://m.org/x") and not found.belong_to("https://m.org.evil/x")
    (tmp_path / "netrc").write_text("nonsense\n")
    with pytest.raises(InputError, match="cannot be read"):
        find_credentials(settings)
    assert without_secrets("at http://me:pw@h/x with secret", found) == "at http://***@h/x with ***"
    assert without_secrets("via http://me:p@w@proxy:80, http://b", None) == "via http://***@proxy:80, http://b"
    signed = without_secrets("no http://h/a.mp4?x=1&access_token=abc&y=2 here", None)
    assert signed == "no http://h/a.mp4?x=1&access_token=***&y=2 here"


@pytest.mark.parametrize(
    "url", ["file:///etc/x.mp4", "htp://x/y.mp4", "http:///x.mp4", "http://[::1/x.mp4", "http://exa mple/x.mp4"]
)
def test_a_url_that_is_none_is_not_asked_for_again(tmp_path, quick, url):
    row = fetch(quick, tmp_path / "v", Video("a0", url))
    assert (row.outcome, row.reason, row.attempts) == ("failed", "unsupported", 1), row.message


def test_a_proxy_and_its_password(tmp_path, quick, monkeypatch):
    quick.template, quick.attempts = "http://h.invalid/{video_id}?token=abcdef", 1
    monkeypatch.setenv("http_proxy", "http://me:p%40ss@127.0.0.1:1")
    row = fetch(quick, tmp_path / "v")
    assert row.reason == "network" and "127.0.0.1" in row.message, row.message
    assert not [secret for secret in ("p%40ss", "p@ss", "abcdef") if secret in row.message]


@pytest.mark.parametrize("kind", ["none", "folder", "binary", "json", "browser", "no browser"])
def test_cookies_that_cannot_be_read(tmp_path, quick, kind, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "json").write_text('[{"name": "a"}]')
    if "browser" in kind:
        quick.cookies_from_browser = {"browser": "firefox", "no browser": "netscape"}[kind]
    else:
        quick.cookies = str(tmp_path if kind == "folder" else tmp_path / kind)
    with pytest.raises(InputError, match="the cookies cannot be read"):
        Downloader(quick, tmp_path)


def test_cookies_are_sent_and_the_file_is_left_alone(tmp_path, corpus, quick):
    text = "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\tabc\n"
    (tmp_path / "cookies.txt").write_text(text)
    quick.cookies = str(tmp_path / "cookies.txt")
    with Mirror(corpus) as mirror:
        quick.template = mirror.url + "/{video_id}.mp4"
        assert fetch(quick, tmp_path / "v").outcome == "done"
        assert mirror.headers["a0.mp4"]["Cookie"] == "session=abc"
    assert (tmp_path / "cookies.txt").read_text() == text


TRACKS = [{"ext": "vtt", "url": "http://h/x?fmt=vtt"}, {"ext": "json3", "url": "http://h/x?fmt=json3"}]
TRANSLATED = [{"ext": "json3", "url": "http://h/x?fmt=json3&tlang=en"}]


@pytest.mark.parametrize(
    ("information", "expected"),
    [
        ({}, None),
        ({"subtitles": {"de": TRACKS}}, None),
        ({"subtitles": {"en": TRACKS}}, ("en", "json3", "written")),
        ({"subtitles": {"en-GB": TRACKS[:1]}, "automatic_captions": {"en": TRACKS}}, ("en-GB", "vtt", "written")),
        ({"automatic_captions": {"en": TRACKS, "en-orig": TRACKS}}, ("en-orig", "json3", "recognised")),
        ({"automatic_captions": {"en": TRANSLATED}}, None),
        (
            {"subtitles": {"en": [{"ext": "ttml", "url": "u"}]}, "automatic_captions": {"en": TRACKS}},
            ("en", "json3", "recognised"),
        ),
        ({"subtitles": {"enx": TRACKS, "en-US": TRACKS, "en": TRACKS}}, ("en", "json3", "written")),
        (
            {"subtitles": {"en-eEY6OE_pPo": TRACKS, "live_chat": [{"ext": "json", "url": "u"}]}},
            ("en-eEY6OE_pPo", "json3", "written"),
        ),
    ],
)
def test_which_subtitles(information, expected):
    chosen = choose_subtitles(information, "en")
    assert (chosen and (chosen.language, chosen.ending, chosen.kind)) == expected


VTT = "WEBVTT\n\n00:00:00.500 --> 00:00:02.000\ncrack the egg\n"


@pytest.fixture
def page(corpus):
    track = "<track kind='subtitles' srclang='en' src='a0.vtt'>"
    (corpus / "page").write_text(f"<html><body><video src='a0.mp4'>{track}</video></body></html>")
    (corpus / "a0.vtt").write_text(VTT)
    return corpus


def test_captions_come_with_the_video(tmp_path, page, quick):
    with Mirror(page) as mirror:
        row = fetch(quick, tmp_path / "v", Video("a0", mirror.url + "/page"), with_captions=True)
        assert (row.outcome, row.message) == ("done", "subtitles: en, written")
        path = find_captions(tmp_path / "v", "a0")
        assert path.name == "a0.en.vtt" and read_captions(path)[0].text == "crack the egg"
        fetch(quick, tmp_path / "w", Video("a0", mirror.url + "/page"))
        assert find_captions(tmp_path / "w", "a0") is None


def test_long_captions_come_whole(tmp_path, page, quick):
    cue = "00:{:02d}:{:02d}.000 --> 00:{:02d}:{:02d}.900\nstep {} {}\n\n"
    cues = [cue.format(n // 60, n % 60, n // 60, n % 60, n, "and so on " * 40) for n in range(1000)]
    (page / "a0.vtt").write_text("WEBVTT\n\n" + "".join(cues))
    with Mirror(page) as mirror:
        fetch(quick, tmp_path / "v", Video("a0", mirror.url + "/page"), with_captions=True)
    assert find_captions(tmp_path / "v", "a0").read_bytes() == (page / "a0.vtt").read_bytes()


@pytest.mark.parametrize("status", [429, 503])
def test_captions_that_fail_for_now_are_asked_for_again(tmp_path, page, quick, status):
    with Mirror(page, {"a0.vtt": Fault("status", status=status, times=2)}) as mirror:
        row = fetch(quick, tmp_path / "v", Video("a0", mirror.url + "/page"), with_captions=True)
    assert (row.outcome, row.message, mirror.requests["a0.vtt"]) == ("done", "subtitles: en, written", 3)


@pytest.mark.parametrize("fault", [Fault("status", status=404), Fault("html"), Fault("status", status=429)])
def test_captions_that_fail_never_cost_the_video(tmp_path, page, quick, fault):
    with Mirror(page, {"a0.vtt": fault}) as mirror:
        row = fetch(quick, tmp_path / "v", Video("a0", mirror.url + "/page"), with_captions=True)
    assert row.outcome == "done" and row.message.startswith("no subtitles: ")
    assert find_video(tmp_path / "v", "a0") and find_captions(tmp_path / "v", "a0") is None
