"""A small corpus, a server for it, and the whole way through them."""
