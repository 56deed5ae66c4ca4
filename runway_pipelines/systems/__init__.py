"""Where services find their data stores: names, paths and loaders, all pure (credentials contract, section 3)."""
