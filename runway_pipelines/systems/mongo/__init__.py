"""Everything that we know of mongo."""
