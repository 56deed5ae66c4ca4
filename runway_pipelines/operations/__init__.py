"""What operators learn from runs that ended, how the log looks, and how long runs are kept.

The core is pure: `run_report` (what a run says about itself), `outcomes` (the event that follows), `run_cursor` (which
runs were looked at), `wording`. Around it, `run_log` reads Dagster's event log and `outcome_sensor` sends the events.
"""
