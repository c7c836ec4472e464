"""What came out of training: how far agents differ, where in the network, and what their adapters have become."""
