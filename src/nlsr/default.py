"""The model that is taken where none is named."""

DEFAULT_MODEL = "lcoan-light"
"""A family of packaged weights: the scale that is asked for decides between its members."""
