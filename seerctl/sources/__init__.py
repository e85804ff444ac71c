"""Where images come from: folders, lists, tar archives, tables."""
