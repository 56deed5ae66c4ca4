"""Everything that we know of aws."""
