"""ID-CodeFormer: blind face restoration that keeps the person."""

__version__ = '0.1.0'
