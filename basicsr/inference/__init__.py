"""Restoring pictures: aligned faces (`FaceRestorer`), whole pictures (`ImageRestorer`), and folders of them."""

from basicsr.inference.face_restorer import FaceRestorer
from basicsr.inference.image_restorer import ImageRestorer

__all__ = ['FaceRestorer', 'ImageRestorer']
