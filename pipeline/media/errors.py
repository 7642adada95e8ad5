"""What a media file can fail with."""

from __future__ import annotations

from typing import Literal

MediaReason = Literal["corrupt", "timeout", "unsupported", "not_found", "unknown"]
"""``corrupt``: damaged or cut; ``timeout``: took longer than allowed; ``unsupported``: nothing in it can be decoded;
``not_found``: there is no such file; ``unknown``: FFmpeg itself died."""


class MediaError(Exception):
    """One file cannot be used; the ledger gets :attr:`reason` and :attr:`message`, and the work goes on."""

    def __init__(self, reason: MediaReason, message: str) -> None:
        super().__init__(reason, message)
        self.reason: MediaReason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"
