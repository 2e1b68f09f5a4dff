"""Work on two processes that can talk to each other."""

import torch
from torch import distributed, multiprocessing


def on_two_processes(work, folder, *arguments):
    """Return what ``work(rank, *arguments)`` returned on either process: plain numbers and containers of them."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    store = f"file://{folder / 'store'}"
    processes = [
        context.Process(target=_run, args=(work, rank, store, results, arguments), daemon=True) for rank in range(2)
    ]
    for process in processes:
        process.start()
    found = {}
    for _ in processes:
        rank, value = results.get()
        if isinstance(value, Exception):
            raise value
        found[rank] = value
    for process in processes:
        process.join(60)
    return [found[rank] for rank in range(2)]


def _run(work, rank, store, results, arguments):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    try:
        results.put((rank, work(rank, *arguments)))
    except Exception as error:  # the other one may wait for this one for ever
        results.put((rank, error))
        raise
    distributed.barrier()
    distributed.destroy_process_group()
