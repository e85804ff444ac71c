"""Many data sets and protocols in one go: from pictures or features to one table. Knows models, unlike `probes`."""
