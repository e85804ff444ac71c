"""Counts, intervals, policies and verdicts by group."""
