"""Sharing methods as owner tables. No Ray."""
