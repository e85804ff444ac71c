"""Shard sets: writer, index, verification, the reading plan and its pipeline."""
