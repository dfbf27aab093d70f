"""Face recognizers: their networks, files and names, and the embedder that all of them share."""

from basicsr.recognition.embedder import FaceEmbedder

__all__ = ['FaceEmbedder']
