"""Everything that we know of snowflake."""
