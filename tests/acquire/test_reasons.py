import errno
import socket

import pytest
from yt_dlp.networking.exceptions import TransportError
from yt_dlp.utils import DownloadError, ExtractorError, GeoRestrictedError

from pipeline.acquire.reasons import (
    REASONS,
    RETRIED_AT_ONCE,
    classify,
    classify_message,
    clean_message,
    explained,
    is_temporary,
)

# as yt-dlp gives them; ids shortened
MESSAGES = [
    ("removed", "ERROR: [youtube] x: Video unavailable"),
    ("removed", "ERROR: [youtube] x: Video unavailable. This video has been removed by the uploader"),
    ("removed", "ERROR: [youtube] x: Video unavailable. This video is no longer available"),
    ("removed", "ERROR: [youtube] x: This video is unavailable"),
    ("removed", "ERROR: [youtube] x: YouTube said: This video is not available."),
    ("removed", "ERROR: [youtube] x: This video isn't available anymore"),
    (
        "removed",
        "ERROR: [youtube] x: This video has been removed for violating YouTube's policy on nudity or sexual content.",
    ),
    ("removed", "ERROR: [youtube] x: This video has been removed for violating YouTube's Community Guidelines."),
    ("removed", "ERROR: [youtube] x: This video has been removed for violating YouTube's Terms of Service."),
    ("removed", "ERROR: [youtube] x: Video unavailable. This video has been removed by the user"),
    ("private", "ERROR: [youtube] x: Private video. Sign in if you've been granted access to this video"),
    ("private", "ERROR: [youtube] x: This video is private."),
    (
        "private",
        "ERROR: [youtube] x: Private video. Sign in if you've been granted access to this video. Use --cookies-from-"
        "browser or --cookies for the authentication. See  https://github.com/yt-dlp/yt-dlp/wiki/FAQ",
    ),
    (
        "account_terminated",
        "ERROR: [youtube] x: Video unavailable. This video is no longer available because the YouTube account "
        "associated with this video has been terminated.",
    ),
    (
        "account_terminated",
        "ERROR: [youtube] x: This video is no longer available because the uploader has closed their YouTube account.",
    ),
    (
        "account_terminated",
        "ERROR: [youtube] x: This account has been terminated due to multiple or severe violations of YouTube's policy "
        "against spam, deceptive practices, and misleading content.",
    ),
    (
        "account_terminated",
        "ERROR: [youtube] x: This account has been terminated because we received multiple third-party claims of "
        "copyright infringement regarding material the user posted.",
    ),
    (
        "copyright",
        "ERROR: [youtube] x: Video unavailable. This video is no longer available due to a copyright claim by Sony",
    ),
    (
        "copyright",
        "ERROR: [youtube] x: Video unavailable. This video contains content from UMG, who has blocked it on copyright "
        "grounds",
    ),
    (
        "age_restricted",
        "ERROR: [youtube] x: Sign in to confirm your age. This video may be inappropriate for some users.",
    ),
    (
        "age_restricted",
        "ERROR: [youtube] x: Sign in to confirm your age. This video may be inappropriate for some users. Use "
        "--cookies-from-browser or --cookies for the authentication.",
    ),
    ("age_restricted", "ERROR: [youtube] x: This video is age-restricted and only available on YouTube"),
    ("geo_blocked", "ERROR: [youtube] x: The uploader has not made this video available in your country"),
    (
        "geo_blocked",
        "ERROR: [youtube] x: Video unavailable. This video contains content from SME, who has blocked it in your "
        "country on copyright grounds",
    ),
    ("geo_blocked", "ERROR: [vimeo] x: This video is not available from your location due to geo restriction"),
    (
        "geo_blocked",
        "ERROR: [youtube] x: The uploader has not made this video available in your country\nThis video is available "
        "in Germany.\nYou might want to use a VPN or a proxy server (with --proxy) to workaround.",
    ),
    (
        "members_only",
        "ERROR: [youtube] x: Join this channel to get access to members-only content like this video, and other "
        "exclusive perks.",
    ),
    (
        "members_only",
        "ERROR: [youtube] x: This video is available to this channel's members on level: Gold (or any higher level). "
        "Join this channel to get access",
    ),
    ("members_only", "ERROR: [youtube] x: This video requires payment to watch."),
    ("members_only", "ERROR: [youtube] x: This video is only available to Music Premium members"),
    ("live", "ERROR: [youtube] x: This live event will begin in 3 hours."),
    ("live", "ERROR: [youtube] x: This live event will begin in a few moments."),
    ("live", "ERROR: [youtube] x: Premieres in 12 hours"),
    ("live", "ERROR: [youtube] x: Premiere will begin shortly"),
    ("live", "ERROR: [youtube] x: This live stream recording is not available."),
    ("live", "ERROR: [youtube] x: This live event has ended."),
    ("live", "ERROR: [youtube] x: We're processing this video. Check back later."),
    ("live", "ERROR: [twitch:stream] x: The channel is not currently live"),
    (
        "no_formats",
        "ERROR: [youtube] x: Requested format is not available. Use --list-formats for a list of available formats",
    ),
    (
        "no_formats",
        "ERROR: [youtube] x: No video formats found!; please report this issue on  https://github.com/yt-dlp/yt-dlp/"
        "issues?q= , filling out the appropriate issue template.",
    ),
    ("no_formats", "ERROR: [youtube] x: The following content is not available on this app."),
    ("unsupported", "ERROR: [youtube] x: This video is DRM protected"),
    ("unsupported", "ERROR: Unsupported URL: http://example.org/page"),
    ("unsupported", "ERROR: [generic] 'abc' is not a valid URL. Set --default-search \"ytsearch\" to search YouTube"),
    ("not_found", "ERROR: [generic] Unable to download webpage: HTTP Error 404: Not Found"),
    (
        "not_found",
        "ERROR: [generic] x: Unable to download webpage: HTTP Error 410: Gone (caused by <HTTPError 410: Gone>)",
    ),
    (
        "not_found",
        "ERROR: [youtube:truncated_id] abc: Incomplete YouTube ID abc. URL http://y/watch?v=abc looks truncated.",
    ),
    ("forbidden", "ERROR: unable to download video data: HTTP Error 403: Forbidden"),
    ("rate_limited", "ERROR: unable to download video data: HTTP Error 429: Too Many Requests"),
    ("rate_limited", "ERROR: [youtube] x: Unable to download API page: HTTP Error 429: Too Many Requests"),
    (
        "rate_limited",
        "ERROR: [youtube] x: Video unavailable. This content isn't available, try again later. The current session has "
        "been rate-limited by YouTube for up to an hour. It is recommended to use `-t sleep` to add a delay",
    ),
    ("rate_limited", "ERROR: [youtube] x: Video unavailable. This content isn’t available."),
    (
        "bot_check",
        "ERROR: [youtube] x: Sign in to confirm you’re not a bot. Use --cookies-from-browser or --cookies for the "
        "authentication. See  https://github.com/yt-dlp/yt-dlp/wiki/FAQ#how-do-i-pass-cookies-to-yt-dlp",
    ),
    ("bot_check", "ERROR: [youtube] x: Sign in to confirm you're not a bot. This helps protect our community."),
    ("bot_check", "ERROR: [youtube] x: The page needs to be reloaded."),
    ("bot_check", "ERROR: [youtube] All player responses are invalid. Your IP is likely being blocked by Youtube"),
    ("auth_failed", "ERROR: unable to download video data: HTTP Error 401: Unauthorized"),
    ("auth_failed", "ERROR: [youtube] x: Login details are needed to download this content. Use --cookies"),
    (
        "auth_failed",
        "ERROR: [youtube] The provided YouTube account cookies are no longer valid. They have likely been rotated in "
        "the browser as a security measure.",
    ),
    (
        "auth_failed",
        "ERROR: [vimeo] x: This video is only available for registered users. Use --username and --password",
    ),
    ("network", "ERROR: unable to download video data: HTTP Error 503: Service Unavailable"),
    ("network", "ERROR: [generic] Unable to download webpage: HTTP Error 500: Internal Server Error"),
    ("network", "ERROR: [download] Got error: 1234 bytes read, 5678 more expected"),
    ("network", "ERROR: [download] Got error: ('Connection aborted.', ConnectionResetError(104, 'reset by peer'))"),
    ("network", "ERROR: Did not get any data blocks"),
    ("network", "ERROR: content too short (expected 100 bytes and served 50)"),
    (
        "network",
        "ERROR: [youtube] x: Unable to download webpage: <urllib3.connection.HTTPSConnection object at 0x7f>: Failed "
        "to resolve 'www.youtube.com' ([Errno -2] Name or service not known)",
    ),
    (
        "network",
        "ERROR: [generic] Unable to download webpage: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed",
    ),
    ("network", "ERROR: [youtube] x: Failed to extract any player response; please report this issue on  https://g"),
    ("network", "ERROR: [generic] Unable to download webpage: Exceeded 30 redirects."),
    (
        "timeout",
        "ERROR: [download] Got error: HTTPConnectionPool(host='h', port=80): Read timed out. (read timeout=20.0)",
    ),
    (
        "timeout",
        "ERROR: [youtube] x: Unable to download webpage: The read operation timed out (caused by TransportError)",
    ),
    ("timeout", "ERROR: unable to download video data: HTTP Error 504: Gateway Timeout"),
    ("network", "ERROR: fragment 7 not found, unable to continue"),
    ("network", "ERROR: [download] Got error: HTTP Error 404: Not Found. Giving up after 0 retries"),
    ("network", "ERROR: [youtube] x: Unable to download API page: EOF occurred in violation of protocol (_ssl.c:1006)"),
    ("network", "ERROR: The downloaded file is empty"),
    (
        "auth_failed",
        "ERROR: ('Unable to connect to proxy', OSError('Tunnel connection failed: 407 Proxy Authentication",
    ),
    (
        "auth_failed",
        "ERROR: [youtube] x: Please sign in. Use --cookies-from-browser or --cookies for the authentication.",
    ),
    ("corrupt", "ERROR: Postprocessing: Error opening input files: Invalid data found when processing input"),
    ("corrupt", "ERROR: Postprocessing: /videos/x.mp4: moov atom not found"),
    ("unknown", "ERROR: Postprocessing: ffmpeg exited with code -9"),
    ("unknown", "ERROR: Postprocessing: ffprobe and ffmpeg not found. Please install or provide the path"),
    (
        "no_formats",
        "ERROR: [youtube] x: Video unavailable. Playback on other websites has been disabled by the video owner",
    ),
    (
        "no_formats",
        "ERROR: [youtube] x: This video contains content from Vevo, who has blocked it from display on this website or "
        "application.",
    ),
    (
        "forbidden",
        "ERROR: [youtube] x: Video unavailable. This video is restricted. Please check the Google Workspace "
        "administrator and/or the network administrator restrictions.",
    ),
    (
        "age_restricted",
        "ERROR: [youtube] x: The following content has been identified by the YouTube community as inappropriate or "
        "offensive to some audiences.",
    ),
    ("live", "ERROR: [youtube] x: Offline."),
    ("live", "ERROR: [vimeo:event] x: This live event is scheduled for 2026-12-01 10:00"),
    ("removed", "ERROR: [youtube] aDRMbSSL_cc: Video unavailable"),
    ("disk_full", "ERROR: unable to write data: [Errno 28] No space left on device"),
    ("too_large", "[download] File is larger than max-filesize (100 bytes > 10 bytes). Aborting."),
    ("unknown", "ERROR: [youtube] x: Something that nobody has seen"),
    (
        "unknown",
        "ERROR: [youtube] x: Unable to extract yt initial data; please report this issue on https://github.com/x",
    ),
]


@pytest.mark.parametrize(("reason", "message"), MESSAGES, ids=[message[7:60] for _, message in MESSAGES])
def test_real_messages(reason, message):
    assert classify_message(message) == reason
    assert classify(DownloadError(message)).reason == reason


def test_there_are_many_and_for_most_reasons():
    assert len(MESSAGES) >= 50
    tested = {reason for reason, _ in MESSAGES}
    # a limit of the settings
    assert set(REASONS) - tested == {"too_long"}


def test_messages_are_kept_but_for_advice_and_colours():
    message = "\x1b[0;31mERROR:\x1b[0m [youtube] x: Video unavailable.\nGone. Use --cookies-from-browser or --cookies"
    assert clean_message(message) == "[youtube] x: Video unavailable. Gone."
    assert clean_message("ERROR: Use --cookies") == "Use --cookies"


def wrapped(cause):
    """As yt-dlp wraps what it met."""
    try:
        raise cause
    except type(cause) as error:
        return DownloadError("ERROR: something", (type(error), error, error.__traceback__))


def test_exceptions_tell_more_than_their_text():
    assert classify(wrapped(OSError(errno.ENOSPC, "x"))).reason == "disk_full"
    assert classify(wrapped(GeoRestrictedError("Not for you"))).reason == "geo_blocked"
    assert classify(wrapped(TransportError(cause=TimeoutError()))).reason == "timeout"
    assert classify(wrapped(ExtractorError("x", cause=TimeoutError("y")))).reason == "timeout"
    assert classify(socket.gaierror(-2, "Name or service not known")).reason == "network"
    assert classify(OSError(errno.EDQUOT, "quota")).reason == "disk_full"
    assert classify(ValueError()).message == "ValueError"


SOLVING = "[youtube] x: n challenge solving failed: Some formats may be missing. Ensure you have a supported JavaScript"


@pytest.mark.parametrize(
    ("message", "warnings", "reason"),
    [
        (
            "Failed to extract any player response",
            ["Unable to download API page: HTTP Error 429: Too Many"],
            "rate_limited",
        ),
        ("No video formats found!", ["[youtube] HTTP Error 403: Forbidden"], "forbidden"),
        ("Requested format is not available", [SOLVING], "no_formats"),
        ("Video unavailable", ["Unable to download API page: HTTP Error 429: Too Many"], "removed"),
        ("No video formats found!", [], "no_formats"),
    ],
)
def test_warnings_explain_an_error_that_does_not_say_why(message, warnings, reason):
    failure = explained(classify(DownloadError(f"ERROR: [youtube] x: {message}")), warnings)
    assert failure.reason == reason and is_temporary(reason) is (reason != "removed")
    assert (clean_message(warnings[0]) in failure.message) is (reason != "removed") if warnings else True


def test_what_is_retried_at_once_is_temporary():
    assert all(is_temporary(reason) for reason in RETRIED_AT_ONCE)
    assert not is_temporary(None) and not is_temporary("removed") and is_temporary("live")
