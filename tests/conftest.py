"""Every test process computes on one thread: two of them share the cores, and results do not depend on their number."""

import torch

torch.set_num_threads(1)
