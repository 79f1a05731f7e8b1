"""The index: a catalog that must not be lost, and snapshots and views derived from it."""
