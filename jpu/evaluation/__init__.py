"""Metrics with intervals, and the evaluation before and after hardening."""
