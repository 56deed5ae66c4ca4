"""A room for each outside system.

A room holds everything we know about its system: the names it goes by, the client or pool, its errors mapped to ours,
and the plain values it answers with. It knows no domain and no other room, except that every store is located through
AWS. Beside the rooms are the modules that the data stores share: the vocabulary of their names, reading the secrets and
parameters that locate them, CA certificates, and a resource that connects at first use.
"""
