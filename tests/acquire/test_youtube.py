"""YouTube as yt-dlp's own extractor sees it, with the network replaced by pages and answers made here."""

import io
import json

import pytest
import yt_dlp
from yt_dlp.networking import Response
from yt_dlp.networking.exceptions import HTTPError

from pipeline.acquire.client import Downloader
from pipeline.acquire.layout import find_captions, find_video, incoming_path
from pipeline.acquire.options import Log, client_options
from pipeline.acquire.transfer import Transfer
from pipeline.media.captions import read_captions
from pipeline.types import Video

ID = "abcdefghijk"


def answer(status, reason=None, subreason=None, **more):
    """What the player's API says of a video."""
    playability = {"status": status, **({"reason": reason} if reason else {})}
    if subreason:
        texts = {"reason": {"simpleText": reason}, "subreason": {"simpleText": subreason}}
        playability["errorScreen"] = {"playerErrorMessageRenderer": texts}
    details = {"videoId": ID, "title": "Tea", "lengthSeconds": "3"}
    return {"playabilityStatus": playability, "videoDetails": details, **more}


@pytest.fixture
def fetch(tmp_path, quick, monkeypatch):
    """Fetches a video; ``files`` are what YouTube's servers hold, ``statuses`` what pages and API answer."""

    def run(player, files=None, api=200, page=200, with_captions=False):
        def reply(url, body, status=200):
            headers = {"Content-Type": "text/html" if "/watch" in url else "", "Content-Length": str(len(body))}
            response = Response(io.BytesIO(body), url, headers, status)
            if status >= 400:
                raise HTTPError(response)
            return response

        def urlopen(_, request):
            url = request if isinstance(request, str) else request.url
            held = next((body for name, body in (files or {}).items() if name in url), None)
            if held is not None:
                return reply(url, held)
            if "/youtubei/v1/player" in url:
                return reply(url, json.dumps(player).encode(), api)
            if "/watch?" in url:
                data = '{"contents": {"twoColumnWatchNextResults": {}}}'
                both = (f"var ytInitialPlayerResponse = {json.dumps(player)};", f"var ytInitialData = {data};")
                return reply(url, "".join(f"<script>{one}</script>" for one in both).encode(), page)
            return reply(url, b"{}" if "/youtubei/" in url else b"", 200 if "/youtubei/" in url else 404)

        monkeypatch.setattr(yt_dlp.YoutubeDL, "urlopen", urlopen)
        quick.attempts = 1
        return Downloader(quick, tmp_path / "v").fetch(Video(ID), with_captions)

    return run


@pytest.mark.parametrize(
    ("reason", "player"),
    [
        ("bot_check", answer("LOGIN_REQUIRED", "Sign in to confirm you’re not a bot")),
        ("private", answer("LOGIN_REQUIRED", "Private video", "Sign in if you've been granted access to this video")),
        ("auth_failed", answer("LOGIN_REQUIRED", "Please sign in")),
        ("removed", answer("ERROR", "Video unavailable")),
        ("rate_limited", answer("ERROR", "This content isn't available, try again later.")),
        (
            "geo_blocked",
            answer("UNPLAYABLE", "Gone", "The uploader has not made this video available in your country"),
        ),
        ("live", answer("LIVE_STREAM_OFFLINE", "Premieres in 3 hours")),
        ("members_only", answer("UNPLAYABLE", "This video requires payment to watch")),
        ("no_formats", answer("OK")),
        (
            "no_formats",
            answer("UNPLAYABLE", "Gone", "Playback on other websites has been disabled by the video owner"),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_youtube_says(fetch, reason, player):
    row = fetch(player)
    assert (row.outcome, row.reason) == ("failed", reason), row.message


@pytest.mark.parametrize(
    ("status", "by_the_api", "by_all"),
    [
        (429, "rate_limited", "rate_limited"),
        (403, "forbidden", "forbidden"),
        (500, "no_formats", "network"),
        (404, "no_formats", "network"),
    ],
)
def test_an_api_that_refuses_is_no_video_that_is_gone(fetch, status, by_the_api, by_all):
    assert fetch(answer("OK"), api=status).reason == by_the_api
    assert fetch(answer("OK"), api=status, page=status).reason == by_all


def test_only_a_trailer(fetch, monkeypatch):
    other = {"id": "lmnopqrstuv", "title": "x", "url": "http://h/x.mp4"}
    monkeypatch.setattr(yt_dlp.YoutubeDL, "extract_info", lambda *_, **__: other)
    row = fetch(answer("OK"))
    assert row.reason == "members_only" and "trailer" in row.message


def test_an_extractor_that_stumbles_costs_one_video(fetch):
    stream = {"itag": 134, "url": "https://r.googlevideo.com/v?n=abc", "mimeType": 'video/mp4; codecs="avc1"'}
    row = fetch(answer("OK", streamingData={"adaptiveFormats": [stream]}))
    assert (row.outcome, row.reason) == ("failed", "unknown"), row.message


def track(name, kind=None):
    url = f"https://www.youtube.com/api/timedtext?v={ID}&lang={name}&name={kind or 'written'}"
    return {
        "baseUrl": url,
        "vssId": f"{'a' if kind else ''}.{name}",
        "languageCode": name,
        **({"kind": kind} if kind else {}),
    }


def test_a_video_with_its_captions(fetch, tmp_path, video_file):
    stream = {"itag": 18, "url": "https://r.googlevideo.com/v?x=1", "height": 360, "width": 480, "quality": "medium"}
    stream |= {
        "mimeType": 'video/mp4; codecs="avc1.42001E, mp4a.40.2"',
        "contentLength": str(video_file.stat().st_size),
    }
    captions = {"playerCaptionsTracklistRenderer": {"captionTracks": [track("en", "asr"), track("en-GB")]}}
    player = answer("OK", streamingData={"formats": [stream]}, captions=captions)
    events = {"events": [{"tStartMs": 500, "dDurationMs": 1500, "segs": [{"utf8": "boil water"}]}]}
    files = {"googlevideo": video_file.read_bytes(), "name=written&fmt=json3": json.dumps(events).encode()}
    row = fetch(player, files, with_captions=True)
    assert (row.outcome, row.message) == ("done", "subtitles: en-GB, written"), row
    assert find_video(tmp_path / "v", ID).read_bytes() == video_file.read_bytes()
    assert read_captions(find_captions(tmp_path / "v", ID)) == [(0.5, 2.0, "boil water")]
    # a kill while captions were fetched leaves the file under this name: the rerun asks for them, not for the video
    find_captions(tmp_path / "v", ID).unlink()
    whole = find_video(tmp_path / "v", ID)
    whole.rename(incoming_path(tmp_path / "v", ID, "mp4"))
    row = fetch(player, files | {"googlevideo": b""}, with_captions=True)
    assert (row.outcome, row.message) == ("done", "subtitles: en-GB, written"), row
    assert whole.is_file() and find_captions(tmp_path / "v", ID) is not None


def test_the_javascript_runtime_is_found_and_runs_the_solver(quick, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")  # as where Python is called by its path and the environment is not activated
    log = Log()
    client = yt_dlp.YoutubeDL(client_options(quick, Transfer(quick, lambda _: None), log))
    youtube = client.get_info_extractor("Youtube")
    youtube.initialize()
    solver = youtube._jsc_director.providers["Deno"]
    assert solver.is_available()
    parts = (
        solver._lib_script.code,
        "Object.assign(globalThis, lib);",
        solver._core_script.code,
        "console.log(typeof jsc)",
    )
    assert solver._run_js_runtime("\n".join(parts)).strip() == "function" and not log.warnings
