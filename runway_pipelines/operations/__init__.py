"""What operators are told of runs that ended.

Pure core: `outcomes` (which event, and when none), `cursor` (which runs have been looked at). Around it: `run_log` (how
a run ended, from Dagster's event log) and `sensor`.
"""
