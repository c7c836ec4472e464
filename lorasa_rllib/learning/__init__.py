"""Advantages, losses, the owner-aware Adam and the pure updates. No Ray."""
