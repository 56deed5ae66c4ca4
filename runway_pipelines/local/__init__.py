"""The embedded stack: real servers over real protocols, started from Python packages; and a synthetic data set."""
