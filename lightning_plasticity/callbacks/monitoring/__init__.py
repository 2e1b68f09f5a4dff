"""The parts of the plasticity monitor: what to watch, how to measure it, where to write it."""
