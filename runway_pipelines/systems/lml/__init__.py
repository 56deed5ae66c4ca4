"""Everything that we know of lml."""
