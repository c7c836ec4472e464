"""Rollouts, advantages, losses, the owner-aware Adam and the pure updates. No Ray."""
