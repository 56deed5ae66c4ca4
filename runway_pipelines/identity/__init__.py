"""Resolves the library's identity: which libraries to ask LML about, and the rows that its verdicts become."""
