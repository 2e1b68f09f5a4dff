"""What several tests share: small networks, runs of training, snapshots and oracles."""
