"""A partner's connection to its EDU warehouse: the secret, parsed and checked."""
