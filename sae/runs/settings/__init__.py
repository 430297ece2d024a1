"""Every setting of a run, from flags, YAML and JSON."""
