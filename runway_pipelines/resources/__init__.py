"""Where the pipeline speaks to the outside world; libraries' errors become ours here and nowhere else."""
