"""MongoDB: names, client and errors, for the doctor and for services that share the vocabulary.

The pipeline keeps nothing in it.
"""
