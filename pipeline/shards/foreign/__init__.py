"""Features as other programs store them: read into samples, and written from them."""
