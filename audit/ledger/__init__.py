"""SEAL: events become leaves of a Merkle tree, and signed checkpoints fix its head."""
