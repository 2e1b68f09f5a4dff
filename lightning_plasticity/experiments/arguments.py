"""The command line that experiments on streams have in common."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

Setting = int | float | None


def experiment_arguments(
    description: str,
    *,
    methods: Sequence[str],
    full: Mapping[str, Setting],
    fast: Mapping[str, Setting],
    by_default: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    more: Mapping[str, str] | None = None,
    arguments: Sequence[str] | None = None,
) -> argparse.Namespace:
    """Parse the command line of an experiment.

    Every setting is an option of its own; ``--fast`` takes those that are not given from ``fast`` instead of ``full``.

    Args:
        description: What ``--help`` begins with.
        methods: What ``--method`` can be.
        full: Settings of the published protocol. None stands for "all"; such a setting is a whole number if given.
        fast: Settings of a version that a CPU manages in minutes; the same names.
        by_default: The methods that run if none is given; None runs all.
        seeds: The seeds that run if none is given.
        more: Further options that are texts, with their defaults.
        arguments: The words of the command line; None takes those of the process.

    Returns:
        The settings by name, and ``method``, ``seeds``, ``fast``, ``max_steps``, ``data_root``, ``download``, ``out``,
        ``plot``, ``as_published`` and ``accelerator``.

    Example:
        >>> parsed = experiment_arguments(
        ...     "An experiment.",
        ...     methods=["sgd", "adam"],
        ...     full={"width": 2000, "step_size": 0.003},
        ...     fast={"width": 100, "step_size": 0.1},
        ...     arguments=["--fast", "--step-size", "0.2"],
        ... )
        >>> parsed.width, parsed.step_size, parsed.method
        (100, 0.2, ['sgd', 'adam'])
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=methods, nargs="+", default=list(by_default or methods))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--fast", action="store_true", help="a CPU-size version; single settings can be overridden")
    for name, value in full.items():
        kind = float if isinstance(value, float) else int
        parser.add_argument(_option(name), type=kind, help=f"default {value}, with --fast {fast[name]}")
    for name, text in (more or {}).items():
        parser.add_argument(_option(name), default=text)
    parser.add_argument("--max-steps", type=int, default=-1, help="stop each run early")
    parser.add_argument("--data-root", type=Path, help="folder that holds the images")
    parser.add_argument("--download", action="store_true", help="let torchvision fetch the images into DATA_ROOT")
    parser.add_argument("--out", type=Path, default=Path("results"), help="where rows, figure and checkpoints go")
    parser.add_argument("--plot", action="store_true", help="draw a figure from all rows in OUT")
    parser.add_argument("--as-published", action="store_true", help="with the defects of the published code")
    parser.add_argument("--accelerator", default="auto")
    parsed = parser.parse_args(arguments)
    for name, value in (fast if parsed.fast else full).items():
        if getattr(parsed, name) is None:
            setattr(parsed, name, value)
    return parsed


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
