"""Bank layers, networks, action distributions and the team policy. No Ray."""
