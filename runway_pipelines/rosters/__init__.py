"""How a roster reaches S3: query, encode, check, keep, publish.

Pure core: `query`, `encoding`, `quality`, `comparison`, `manifest`. Around it: `publication` (one tenant's keys in the
bucket), `refresh` (one tenant, then all tenants of a partner), and for Dagster `assets`, `events` and `automation`.
"""
