"""Vectorised team environments: arrays in, arrays out. No Ray."""
