"""Keep neural networks able to learn."""
