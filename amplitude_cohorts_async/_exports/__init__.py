"""One export, from its request to its file."""
