"""Measurements and trainings behind the published figures; not installed."""
