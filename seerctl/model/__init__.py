"""RegNetY trunks, heads, and their weights in and out."""
