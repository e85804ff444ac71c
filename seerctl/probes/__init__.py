"""One file per evaluation protocol, from feature files to a report."""
