"""Floor 4: experiments on streams that survive kills, with tables of results and figures."""

from lightning_plasticity.experiments.arguments import experiment_arguments
from lightning_plasticity.experiments.fit import fit_resumable
from lightning_plasticity.experiments.panels import Panel, draw_panels, mean_and_error, seed_curves
from lightning_plasticity.experiments.results import ResultTable, provenance
from lightning_plasticity.experiments.rows import ExperienceRows

__all__ = [
    "ExperienceRows",
    "Panel",
    "ResultTable",
    "draw_panels",
    "experiment_arguments",
    "fit_resumable",
    "mean_and_error",
    "provenance",
    "seed_curves",
]
