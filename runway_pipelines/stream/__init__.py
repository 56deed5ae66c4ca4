"""The live roster stream (extra ``api``): what an executor pulls while a job runs (rosters contract, section 7)."""
