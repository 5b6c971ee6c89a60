"""Counts and times of the hot path: counters, stages, timelines, stalls."""
