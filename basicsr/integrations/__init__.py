"""Plug-ins for other programs; nothing here is imported by this project itself."""
