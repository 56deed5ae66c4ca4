"""AWS: clients with timeouts, errors by code, S3, Secrets Manager, EventBridge, IAM policies, and lookups for stores.

This room does not know which secrets and parameters exist: the stores' rooms and the domains name them.
"""
