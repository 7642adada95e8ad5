"""One media file in, arrays out: decoding, log-mel, captions."""
