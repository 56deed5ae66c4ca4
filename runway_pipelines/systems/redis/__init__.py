"""Everything that we know of redis."""
