"""A fault is handed on to what a label was made from, and what is said is what a reader can act upon."""

from __future__ import annotations

import torch

from lightning_plasticity.units.tracing.labels import FOREIGN, NOBODY, Labels
from lightning_plasticity.units.tracing.why import DILUTED, OUTPUT


def said(labels: Labels, ids: torch.Tensor) -> list[str]:
    return [labels.reasons[code] for code in labels.reason[ids].tolist()]


def mixed(labels: Labels, of: torch.Tensor, why: str) -> torch.Tensor:
    return labels.mixtures(1, torch.zeros(len(of), dtype=torch.long), of, why, statistic=False)


def test_what_reaches_the_output_says_so_whatever_it_was_combined_with():
    labels = Labels()
    units = labels.fresh(2)
    blend = labels.blend(units, [units], DILUTED)
    labels.spoil_members(blend)
    labels.end(blend)
    labels.settle()
    assert said(labels, units) == [OUTPUT] * 2


def test_what_an_operation_without_a_rule_made_keeps_this_reason_in_the_output():
    labels = Labels()
    known, unknown = labels.fresh(2), labels.fresh(2)
    labels.opaque.add(labels.code("no rule"))
    labels.end(torch.cat([mixed(labels, known, "a mean"), mixed(labels, unknown, "no rule")]))
    labels.settle()
    assert said(labels, known) == [OUTPUT] * 2
    assert said(labels, unknown) == ["no rule"] * 2


def test_nobody_and_foreign_have_no_fault():
    labels = Labels()
    unit = labels.fresh(1)
    labels.end(torch.tensor([NOBODY, FOREIGN, int(unit)]))
    labels.couple(torch.tensor([NOBODY, FOREIGN]))
    labels.settle()
    assert said(labels, torch.tensor([NOBODY, FOREIGN, int(unit)])) == ["", "", OUTPUT]
    assert not labels.coupled[: FOREIGN + 1].any()


def test_faults_are_forgotten_with_the_run():
    labels = Labels()
    unit = labels.fresh(1)
    labels.end(unit)
    labels.restart()
    labels.settle()
    assert said(labels, unit) == [""]
    assert not labels.ends.any()
