"""Restore clips: read, track, restore and write frames as a stream."""
