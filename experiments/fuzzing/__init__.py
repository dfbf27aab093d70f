"""Damaged files of every kind, given to the project to find where it fails."""
