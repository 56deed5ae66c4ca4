"""AWS: clients with timeouts, errors by code, S3, Secrets Manager, EventBridge, IAM policies, and lookups for stores.

Which secrets and parameters exist is not known here: the stores' rooms and the domains name them.
"""
