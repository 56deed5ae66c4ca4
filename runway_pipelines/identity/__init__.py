"""Library identity: which libraries LML is asked about, its verdicts, and the rows that they become."""
