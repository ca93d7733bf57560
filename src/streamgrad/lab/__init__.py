"""Experiments, tasks, benchmarks and reports: built on the library's public names, and never imported by it."""
