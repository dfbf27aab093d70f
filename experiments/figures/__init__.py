"""Figures of the documentation that are drawn, and not measured."""
