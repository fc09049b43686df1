"""What a built engine does with flags, weights, requests, KV checkpoints and signals, without a model."""
