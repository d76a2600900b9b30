"""Everything that touches a model: batches, losses, the one training loop, embedding, checkpoints."""
