"""Dagster code location: cross-year rosters, library identity, rotating credentials."""
