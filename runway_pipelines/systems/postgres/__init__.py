"""Everything that we know of postgres."""
