"""Dagster code location: cross-year rosters, library identity, rotating credentials."""

import warnings

# Used knowingly, pinned in requirements-dev.lock and tested; a warning at every import teaches people to look away.
warnings.filterwarnings("ignore", message="Specifying a partitions_def on an AssetCheckSpec is currently in preview")
warnings.filterwarnings("ignore", message="Class `SecretsManagerResource` is currently in beta")
warnings.filterwarnings("ignore", message="Parameter `owners` of .* is currently in beta")
