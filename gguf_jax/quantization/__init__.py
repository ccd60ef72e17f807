"""Quantizing a file: which type each tensor gets, and making it. Importing this package does not import JAX."""
