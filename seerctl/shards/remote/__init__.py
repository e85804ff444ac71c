"""Shard sets at a URL: read through a bounded cache on this machine, bit for bit as from disk."""
