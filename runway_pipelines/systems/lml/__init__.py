"""LML, the library metadata lookup service: values, wire protocol, checks of answers, the client, and its call limiter.

What becomes of a verdict belongs to `identity`.
"""
