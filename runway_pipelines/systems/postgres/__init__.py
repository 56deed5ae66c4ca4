"""Postgres: a service's names, a pool that heals, errors by SQLSTATE, and our two databases. SQL is in the domains."""
