"""Measurements of speed and memory: ratios within one run, written as JSON. Never a timed test."""
