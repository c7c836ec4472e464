"""Plays environments with a policy and fills rollouts: columns, collector, memory, episodes. Needs no Ray."""
