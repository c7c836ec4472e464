"""Sharing methods as owner tables. Imports no Ray."""
