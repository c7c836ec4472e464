"""Analysis of trained policies: how much agents differ, in which layers, and statistics of their adapters."""
