"""Snowflake: connection values, sessions, errors by number, and workarounds for the driver.

Queries, and the secrets that hold connections, belong to the domains.
"""
