"""Floor 0: formulas, tensors in and tensors out."""
