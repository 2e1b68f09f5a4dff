"""Recurrent layers have no units of their own; what they read and what reads them can have some."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lightning_plasticity.units import discover_units, verify_units

LAYERS = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
CELLS = {"LSTMCell": nn.LSTMCell, "GRUCell": nn.GRUCell, "RNNCell": nn.RNNCell}


class Model(nn.Module):
    """A recurrent layer, or a cell, between two linear layers."""

    def __init__(self, recurrent: nn.Module, width: int = 6, *, packed: bool = False) -> None:
        super().__init__()
        self.before, self.recurrent, self.after = nn.Linear(3, 4), recurrent, nn.Linear(width, 5)
        self.head, self.packed = nn.Linear(5, 2), packed

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x).relu()
        if isinstance(self.recurrent, nn.RNNCellBase):
            state = None
            for step in x.unbind(1):
                state = self.recurrent(step, state)
            hidden = state if isinstance(state, Tensor) else state[0]
        elif self.packed:
            hidden = pad_packed_sequence(self.recurrent(pack_padded_sequence(x, LENGTHS, batch_first=True))[0], True)[0]
        else:
            hidden = self.recurrent(x)[0]
        return self.head(self.after(hidden).relu())


X, LENGTHS = torch.randn(3, 4, 3), torch.tensor([4, 3, 1])


def check(model: Model, kind: str) -> None:
    units = discover_units(model, X)
    assert [(group.name, group.size) for group in units] == [("before", 4), ("after", 5)]
    assert all(slot.path.startswith("recurrent.weight_ih") for slot in units["before"].outgoing)
    reasons = {skip.layer: (skip.reason, skip.remedy) for skip in units.skipped}
    assert reasons["recurrent"] == (
        f"it is recurrent ({kind}): its units feed themselves, which no law covers",
        "Nothing needs to be done: the layers before and after it can have units",
    )
    proofs = verify_units(model, X, units)
    assert not proofs.failed, proofs.summary()


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("packed", [False, True])
def test_layers_around_a_recurrent_layer_have_units_also_with_packed_sequences(kind, packed):
    check(Model(LAYERS[kind](4, 6, batch_first=True), packed=packed), kind)


@pytest.mark.parametrize("kind", CELLS)
def test_layers_around_a_recurrent_cell_have_units(kind):
    check(Model(CELLS[kind](4, 6)), kind)


def test_all_directions_of_the_first_layer_read_the_input():
    model = Model(nn.LSTM(4, 6, num_layers=2, bidirectional=True, batch_first=True), width=12)
    (before, _) = discover_units(model, X)
    assert [slot.path for slot in before.outgoing] == ["recurrent.weight_ih_l0", "recurrent.weight_ih_l0_reverse"]
    check(model, "LSTM")


def test_what_a_recurrent_layer_starts_from_has_no_units():
    class Started(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.state, self.recurrent, self.head = nn.Linear(3, 6), nn.LSTM(3, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            state = self.state(x[:, 0])[None]
            return self.head(self.recurrent(x, (state, state))[0])

    units = discover_units(Started(), X)
    assert len(units) == 0
    assert {skip.layer: skip.reason for skip in units.skipped}["state"] == "a recurrent layer feeds it back to itself"
