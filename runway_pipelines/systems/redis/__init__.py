"""Redis: names, client and errors. The rate limit that concurrent runs share in it belongs to LML."""
