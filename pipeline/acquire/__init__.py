"""Getting one video: the yt-dlp client, its errors, the ledger, pacing."""
