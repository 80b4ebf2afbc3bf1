"""Everything that knows Lightning: the module, the scoring callback, a run from start to end, its directory."""
