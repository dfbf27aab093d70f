"""Restore clips: read, track, restore and write frames as a stream."""

from basicsr.utils.errors import extra

with extra('video'):
    import av as av  # every module of this package needs it
