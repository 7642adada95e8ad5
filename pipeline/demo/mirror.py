"""A web server on this machine that serves a folder of videos, and misbehaves as it is told.

    python -m pipeline.demo.mirror corpus/videos --port 8000

Real HTTP over real sockets, with ranges and kept connections. Faults follow a plan per file, always the same way, so
that what a downloader makes of them can be shown and tested.
"""

from __future__ import annotations

import base64
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal
from urllib.parse import unquote, urlsplit

from pipeline.cli import console, run_verb, verb_parser
from pipeline.errors import InputError

Kind = Literal["status", "cut", "stall", "drip", "no_ranges", "long", "short", "html", "redirect", "flip"]
PIECE = 32 * 1024
"""Bytes sent at once."""
TYPES = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
    ".vtt": "text/vtt",
    ".html": "text/html",
}
PAGE = b"<!DOCTYPE html><html><head><title>Sorry</title></head><body><p>Not here today.</p></body></html>"


@dataclass(frozen=True)
class Fault:
    """How one file is served wrongly.

    Kinds: ``status``: answers ``status`` instead; ``cut``: closes the connection after ``after`` bytes; ``stall``:
    sends nothing more after ``after`` bytes for ``seconds``; ``drip``: sends ``after`` bytes each ``seconds``;
    ``no_ranges``: sends the whole file whatever range was asked for; ``long``: announces ``after`` bytes more than
    there are; ``short``: announces and sends ``after`` bytes less; ``html``: sends a web page as if it were the video;
    ``redirect``: redirects to ``to``, else to itself; ``flip``: sends damaged bytes from ``after`` on.
    """

    kind: Kind
    times: int | None = None
    """The first so many requests of the file; None: all."""
    status: int = 503
    after: int = 0
    seconds: float = 0.0
    retry_after: str | None = None
    """The header ``Retry-After`` of a ``status``."""
    to: str | None = None


@dataclass
class _Tally:
    """What was asked for and sent, by path."""

    requests: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    log: list[tuple[float, str, str | None]] = field(default_factory=list)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)


class Mirror:
    """The server, running in threads of this process while used as a context manager.

    Args:
        folder: what is served; ``/name`` is ``folder/name``.
        faults: by path without the leading slash, one fault or several that follow each other.
        port: 0: any free one.
        ban_after: requests per second above which an address is refused with 429 for ``ban_seconds``; None: never.
        login: user id and password that each request must carry; None: none.
        bytes_per_second: of each connection; None: as fast as it goes.
    """

    def __init__(
        self,
        folder: Path | str,
        faults: Mapping[str, Fault | Sequence[Fault]] | None = None,
        port: int = 0,
        ban_after: int | None = None,
        ban_seconds: float = 5.0,
        login: tuple[str, str] | None = None,
        bytes_per_second: float | None = None,
    ) -> None:
        self.folder = Path(folder).resolve()
        if not self.folder.is_dir():
            raise InputError(f"there is no folder {folder} to serve")
        plans = (faults or {}).items()
        self.faults = {path: (plan,) if isinstance(plan, Fault) else tuple(plan) for path, plan in plans}
        self.tally = _Tally()
        self.lock = threading.Lock()
        self._ban_after, self._ban_seconds = ban_after, ban_seconds
        self._login = None if login is None else "Basic " + base64.b64encode(":".join(login).encode()).decode()
        self.bytes_per_second = bytes_per_second
        self._recent: list[float] = []
        self._banned_until = 0.0
        self.bans = 0
        """Times that an address was banned."""
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.mirror = self
        self.stopping = threading.Event()

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def requests(self) -> Counter[str]:
        """Requests by path."""
        return self.tally.requests

    @property
    def bytes_sent(self) -> int:
        """Bytes of bodies sent so far."""
        return self.tally.bytes.total()

    def __enter__(self) -> Mirror:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def serve_forever(self) -> None:
        """Serves in this thread until interrupted."""
        self._server.serve_forever()

    @property
    def headers(self) -> dict[str, dict[str, str]]:
        """Headers of the last request of each path."""
        return self.tally.headers

    def note(self, path: str, headers: Mapping[str, str]) -> Fault | None:
        """Counts a request and says how it is to go wrong, if so."""
        with self.lock:
            number = self.tally.requests[path]
            self.tally.requests[path] += 1
            self.tally.log.append((time.monotonic(), path, headers.get("Range")))
            self.tally.headers[path] = dict(headers)
            if self._is_banned():
                return Fault("status", status=429, retry_after="1")
        if self._login is not None and headers.get("Authorization") != self._login:
            return Fault("status", status=401)
        for fault in self.faults.get(path, ()):
            if fault.times is None or number < fault.times:
                return fault
            number -= fault.times
        return None

    def note_bytes(self, path: str, count: int) -> None:
        """Counts bytes sent."""
        with self.lock:
            self.tally.bytes[path] += count

    def _is_banned(self) -> bool:
        if self._ban_after is None:
            return False
        at = time.monotonic()
        self._recent = [*(then for then in self._recent if then > at - 1), at]
        if at >= self._banned_until and len(self._recent) > self._ban_after:
            self._banned_until = at + self._ban_seconds
            self.bans += 1
        return at < self._banned_until


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    mirror: Mirror

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error of the server's."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing; what was asked for is in the mirror's tally."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        fault = self.server.mirror.note(path, dict(self.headers.items())) or Fault("cut", after=1 << 62)
        if fault.kind == "status":
            extra = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
            self._send_whole(fault.status, f"{fault.status}\n".encode(), "text/plain", extra, with_body)
        elif fault.kind == "redirect":
            self._send_whole(302, b"", "text/plain", {"Location": fault.to or self.path}, with_body)
        elif fault.kind == "html":
            self._send_whole(200, PAGE, TYPES.get(PurePosixPath(path).suffix, "text/html"), {}, with_body)
        else:
            file = self._find(path)
            if file is None:
                self._send_whole(404, b"not found\n", "text/plain", {}, with_body)
            else:
                self._send_file(path, file, fault, with_body)

    def _find(self, path: str) -> Path | None:
        file = (self.server.mirror.folder / path).resolve()
        inside = file.is_relative_to(self.server.mirror.folder)
        return file if inside and file.is_file() else None

    def _send_whole(self, status: int, body: bytes, kind: str, extra: Mapping[str, str], with_body: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in extra.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _send_file(self, path: str, file: Path, fault: Fault, with_body: bool) -> None:
        size = file.stat().st_size - (fault.after if fault.kind == "short" else 0)
        start, end = 0, size
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        ranged = match is not None and fault.kind != "no_ranges"
        if ranged and match is not None:
            start, end = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
            if start >= size:
                self._send_whole(416, b"", "text/plain", {"Content-Range": f"bytes */{size}"}, with_body)
                return
        self.send_response(206 if ranged else 200)
        if ranged:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        if fault.kind != "no_ranges":
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Type", TYPES.get(file.suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(end - start + (fault.after if fault.kind == "long" else 0)))
        self.end_headers()
        if with_body:
            with file.open("rb") as content:
                self._send_body(path, content, start, end, fault)

    def _send_body(self, path: str, content: BinaryIO, start: int, end: int, fault: Fault) -> None:
        mirror = self.server.mirror
        piece = max(fault.after, 1) if fault.kind == "drip" else PIECE
        limit = min(start + fault.after, end) if fault.kind in ("cut", "stall") else end
        content.seek(start)
        sent = start
        while sent < limit:
            part = content.read(min(piece, limit - sent))
            if fault.kind == "flip":
                whole = max(fault.after - sent, 0)
                part = part[:whole] + bytes(255 - byte for byte in part[whole:])
            self.wfile.write(part)
            mirror.note_bytes(path, len(part))
            sent += len(part)
            if fault.kind == "drip":
                mirror.stopping.wait(fault.seconds)
            elif mirror.bytes_per_second is not None:
                mirror.stopping.wait(len(part) / mirror.bytes_per_second)
        if fault.kind == "stall" and sent < end:
            mirror.stopping.wait(fault.seconds)
        if sent < end or fault.kind == "long":
            self._hang_up()

    def _hang_up(self) -> None:
        """Closes the connection with a reset, as a crashed server does."""
        self.close_connection = True
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))


def main(argv: Sequence[str] | None = None) -> None:
    """Serves a folder until interrupted and prints the address."""
    parser = verb_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    arguments = parser.parse_args(argv)
    mirror = Mirror(arguments.folder, port=arguments.port)
    print(mirror.url, flush=True)
    console.print(f"serving {mirror.folder}; Ctrl-C ends it")
    mirror.serve_forever()


if __name__ == "__main__":
    run_verb(main)
