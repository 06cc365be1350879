"""Sites, channels, fingerprints and splits: from ray-traced paths to tensors."""
