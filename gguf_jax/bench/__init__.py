"""Measuring: models, ops, and the limits of the machine."""
