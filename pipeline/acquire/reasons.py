"""Why a video could not be had or used: a fixed vocabulary, and what the messages of yt-dlp mean in it."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from dataclasses import dataclass

REASONS: dict[str, tuple[bool, str]] = {
    # name: (temporary, what it means)
    "removed": (False, "taken down by its uploader or the site"),
    "private": (False, "its uploader made it private"),
    "account_terminated": (False, "the uploader's account is gone"),
    "copyright": (False, "blocked for copyright"),
    "age_restricted": (False, "shown only to an account of age (give cookies)"),
    "geo_blocked": (False, "not shown in this country (give a proxy)"),
    "members_only": (False, "shown only to who pays"),
    "live": (True, "a stream that has not ended, or a video still being processed"),
    "no_formats": (True, "no format of it was offered; an old yt-dlp, too (update it)"),
    "not_found": (False, "no source has it"),
    "forbidden": (True, "the server refuses this request (403)"),
    "rate_limited": (True, "too many requests (429)"),
    "bot_check": (True, "the site wants proof of a person (give cookies, go slower)"),
    "auth_failed": (True, "user id, password or cookies are missing or wrong"),
    "network": (True, "the connection failed or the server is out of order"),
    "timeout": (True, "no answer, or far too slow"),
    "disk_full": (True, "no room for the file"),
    "corrupt": (False, "what the source has is damaged"),
    "too_large": (False, "more bytes than allowed"),
    "too_long": (False, "more seconds than allowed"),
    "unsupported": (False, "not a video that can be decoded"),
    "unknown": (True, "anything else; its message is in the ledger"),
}
"""Every reason that a ledger can hold: whether it may pass by itself, and what it means."""

RETRIED_AT_ONCE = frozenset({"network", "timeout", "rate_limited", "bot_check", "forbidden", "unknown"})
"""Temporary reasons that a wait of seconds may cure; the others are left for the next run."""


def is_temporary(reason: str | None) -> bool:
    """Whether a video that failed for this reason is tried again by the next run."""
    return reason is not None and REASONS[reason][0]


@dataclass(frozen=True)
class Failure:
    """Why a video was not had."""

    reason: str
    """One of :data:`REASONS`."""
    message: str
    """The original text."""


# The first pattern that is found in a message decides, so what is special stands before what is general.
# fmt: off
_MESSAGES: tuple[tuple[str, str], ...] = (
    ("disk_full", r"no space left on device|disk quota exceeded|errno 28\b"),
    ("bot_check", r"not a bot|confirm you.?re not|captcha|the page needs to be reloaded|unusual traffic|"
                  r"ip is likely being blocked|verify (that )?you are (a )?human"),
    ("rate_limited", r"http error 429|too many requests|rate.?limit|content isn.?t available"),
    # a piece of a stream that is lost, of which the rest is there
    ("network", r"fragment \d+ not found|got error: http error (404|410)|violation of protocol|"
                r"unable to download api page: http error 404"),
    # of this machine: FFmpeg was killed, or is not there
    ("unknown", r"^postprocessing:.*exited with code -\d|^postprocessing: ff(mpeg|probe)[\w ]* not found"),
    ("corrupt", r"^postprocessing:"),
    ("age_restricted", r"confirm your age|age.?restricted|inappropriate for some users|age verification|"
                       r"inappropriate or offensive to some"),
    ("members_only", r"members.?only|channel.?s members|join this channel|requires payment|premium (members|subscri)|"
                     r"subscribers? only|only available (to|for) (paid |paying )?(subscribers|patrons|members)|"
                     r"purchase|rental"),
    ("private", r"private video|video is private|is private\b|video has been made private|granted access"),
    ("account_terminated", r"account (associated with|that uploaded) this video has been (terminated|closed)|"
                           r"account.{0,40}terminated|uploader has closed|user.{0,20}(suspended|deleted)|channel.{0,40}"
                           r"(terminated|does not exist)"),
    ("geo_blocked", r"(in|from) your (country|region|location)|geo.?restrict|not available in your|"
                    r"geographic|country.{0,40}(blocked|not allowed)"),
    # the address of an institution, or a filter of its network
    ("forbidden", r"network administrator|workspace administrator"),
    # what YouTube says to a player that it does not want, of videos that others may see
    ("no_formats", r"playback on other websites|from display on this website|video player configuration error"),
    ("copyright", r"copyright|blocked it on|content claim|trademark"),
    ("live", r"live event will|live event has ended|premieres? in|premiere will|will begin|is offline|"
             r"live stream recording is not available|processing this video|is upcoming|currently live|"
             r"channel is not currently live|not currently live|stream is not (yet )?available|has not started|"
             r"event is scheduled|^offline\.?$"),
    ("unsupported", r"\bdrm\b|unsupported url|no suitable (extractor|infoextractor)|is not a valid url|"
                    r"no video could be found|file:// urls|invalid (ipv6 )?url|no host supplied|failed to parse: |"
                    r"rtmpdump"),
    ("no_formats", r"requested format is not available|no video formats|only images are available|"
                   r"no formats|not available on this app|no playable formats"),
    ("removed", r"has been removed|been deleted|removed by the (uploader|user)|no longer available|"
                r"violat(es|ing|ion of) (youtube|our|the )|community guidelines|terms of service|taken down|"
                r"video is unavailable|video unavailable|video is not available|video is no longer|"
                r"this video isn.?t available|was deleted"),
    ("not_found", r"http error (404|410)|not found|looks truncated|does not exist|no such file|video does not exist|"
                  r"invalid (video|youtube) id"),
    ("auth_failed", r"http error (401|407)|login required|log ?in|sign in|unauthorized|authentication|credentials|"
                    r"registered users|cookies are no longer valid|(invalid|wrong) password"),
    ("forbidden", r"http error 403|forbidden|access denied"),
    ("too_large", r"larger than max.?filesize|too large"),
    ("timeout", r"timed? ?out|deadline|http error (408|504)|too slow"),
    ("network", r"http error 5\d\d|http error (416|425)|connection|reset by peer|remote end closed|broken pipe|"
                r"name or service not known|name resolution|getaddrinfo|no route to host|network is unreachable|\bssl|"
                r"certificate|incomplete ?read|content too short|did not get any data|file is empty|urlopen error|"
                r"proxy|bytes read|unreachable|redirect|eof occurred|transport|failed to resolve|network error|"
                r"unable to download (json|api|webpage|video data)|given up after|failed to extract any player"),
)
# fmt: on
_PATTERNS = tuple((reason, re.compile(pattern, re.IGNORECASE)) for reason, pattern in _MESSAGES)
_VAGUE = frozenset({"no_formats", "network", "unknown"})
_BEHIND_VAGUE = frozenset({"rate_limited", "bot_check", "auth_failed", "forbidden", "timeout"})
_LONGEST_EXPLANATION = 600
_PREFIX = re.compile(r"^\[[\w:+-]+\] \S+: ")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_HINTS = re.compile(
    r"\s*(Use --cookies|See https?://github\.com/yt-dlp|please report this issue|Confirm you are on the latest|"
    r"; please report|You might want to use a VPN|Use --list-formats|Also see https)", re.IGNORECASE
)  # fmt: skip


def classify_message(message: str) -> str:
    """The reason that a message of yt-dlp or of a server stands for.

    >>> classify_message("ERROR: [youtube] abc: Private video. Sign in if you've been granted access to this video")
    'private'
    """
    # the id of a video may hold any word, "drm" or "ssl" among them
    text = _PREFIX.sub("", clean_message(message))
    return next((reason for reason, pattern in _PATTERNS if pattern.search(text)), "unknown")


def clean_message(message: str) -> str:
    """The message in one line, without colours and without advice that is meant for yt-dlp's command line."""
    text = " ".join(_COLOUR.sub("", message).split()).removeprefix("ERROR: ")
    hint = _HINTS.search(text)
    return text[: hint.start()] if hint and hint.start() > 0 else text


def classify(error: BaseException) -> Failure:
    """The reason of an exception that yt-dlp or this machine raised."""
    message = clean_message(f"{error}") or type(error).__name__
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return Failure("disk_full", message)
        if type(cause).__name__ == "GeoRestrictedError":
            return Failure("geo_blocked", message)
        if isinstance(cause, TimeoutError):
            return Failure("timeout", message)
    return Failure(classify_message(message), message)


def explained(failure: Failure, warnings: Sequence[str]) -> Failure:
    """The failure with what yt-dlp warned of before it, where the error itself does not say why.

    A site that answers each way of asking with 429, or a JavaScript challenge that could not be solved, ends as "no
    formats" or "no response"; only the warnings before that say so.
    """
    if failure.reason not in _VAGUE or not warnings:
        return failure
    said = sorted(map(clean_message, warnings), key=lambda text: classify_message(text) not in _BEHIND_VAGUE)
    found = classify_message(said[0])
    reason = found if found in _BEHIND_VAGUE else failure.reason
    return Failure(reason, f"{failure.message} (before that: {'; '.join(said)[:_LONGEST_EXPLANATION]})")


def causes(error: BaseException) -> list[BaseException]:
    """The exception and what it was raised from; yt-dlp keeps the latter in fields of its own."""
    found: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue:
        one = queue.pop(0)
        if one is None or one in found:
            continue
        found.append(one)
        information = getattr(one, "exc_info", None)
        queue += [one.__cause__, getattr(one, "cause", None), information[1] if information else None]
    return found
