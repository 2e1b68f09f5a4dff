"""What cannot be taken apart is refused by name before the model is touched; wrappers are handled."""

from __future__ import annotations

import pytest
import torch
from torch import distributed as dist
from torch import nn

from lightning_plasticity.errors import InvalidArgumentError, UnsupportedModelError
from lightning_plasticity.units import UnitMap, discover_units, verify_units
from lightning_plasticity.units.refusals import unwrapped

X = torch.randn(4, 4)


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def scripted(module):
    with pytest.warns(FutureWarning, match="script"):
        return torch.jit.script(module)


def with_a_process_group(check):
    """Run ``check`` in a forked process that is a group of its own: a group leaves threads behind that forbid forks."""

    def run(rank):
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        check()

    torch.multiprocessing.start_processes(run, nprocs=1, start_method="fork")


def made_in_inference_mode():
    with torch.inference_mode():
        return mlp()


REFUSED = {
    "lazy": (
        lambda: nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(2)),
        r"not built yet \(lazy modules\): '0', '2'\. Expected: .* have a shape\. Remedy: Run the model once",
    ),
    "meta": (lambda: mlp().to("meta"), r"meta device, which have no values: '0', '2'\. .*Remedy: Call `model.to_empty"),
    "DataParallel": (
        lambda: nn.DataParallel(mlp()),
        r"nn\.DataParallel, .*: the model itself\. .*Remedy: Pass its `\.module`.*DistributedDataParallel",
    ),
    "DataParallel inside": (lambda: nn.Sequential(nn.DataParallel(mlp())), r"nn\.DataParallel, .*: '0'\. "),
    "inference": (made_in_inference_mode, r"made in inference mode.*: '0', '2'\. .*outside of `torch.inference_mode"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_taken_apart_is_refused_by_name(kind):
    make, message = REFUSED[kind]
    with pytest.raises(UnsupportedModelError, match=message):
        discover_units(make(), X)


def test_a_lazy_model_is_not_built_by_asking():
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(UnsupportedModelError, match="lazy"):
        discover_units(model, X)
    assert isinstance(model[0], nn.LazyLinear)
    assert torch.nn.parameter.is_lazy(model[0].weight)


@pytest.mark.parametrize("part", [0, None])
def test_scripted_modules_are_refused_whole_or_in_part(part):
    model = mlp()
    if part is None:
        model = scripted(model)
    else:
        model[part] = scripted(model[part])
    with pytest.raises(
        UnsupportedModelError, match=r"scripted or traced.*'0'.*Remedy: Find the units of the module it"
    ):
        discover_units(model, X)


@pytest.mark.ddp
def test_sharded_parameters_of_fsdp2_are_refused():
    def check():
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        model = mlp()
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(
            UnsupportedModelError, match=r"sharded parameters \(DTensor, .*: '0', '2'\. .*Remedy: Use strategy='ddp'"
        ):
            discover_units(model, X)

    with_a_process_group(check)


@pytest.mark.ddp
@pytest.mark.parametrize("use_orig_params", [False, True])
def test_modules_in_fsdp1_are_refused(use_orig_params):
    def check():
        from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

        options = {"sharding_strategy": ShardingStrategy.NO_SHARD, "device_id": torch.device("cpu")}
        part = FullyShardedDataParallel(mlp(), use_orig_params=use_orig_params, **options)
        for model, name in ((part, "the model itself"), (nn.Sequential(part, nn.Linear(2, 2)), "'0'")):
            with pytest.raises(
                UnsupportedModelError, match=rf"FullyShardedDataParallel \(FSDP1\), .*: {name}\. .*Use strategy='ddp'"
            ):
                discover_units(model, X)

    with_a_process_group(check)


def test_models_of_deepspeed_are_refused():
    """Its engine is known by where its class comes from, its partitioned parameters by the attribute it gives them."""
    engine = type("DeepSpeedEngine", (nn.Module,), {"__module__": "deepspeed.runtime.engine"})()
    engine.module = mlp()
    partitioned = mlp()
    partitioned[2].weight.ds_id = 0
    for model, name in ((engine, "the model itself"), (partitioned, "'2'")):
        with pytest.raises(UnsupportedModelError, match=rf"DeepSpeed, which .*: {name}\. .*Use strategy='ddp'"):
            discover_units(model, X)


def test_what_is_no_module_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"model of type builtin_function.*Expected: an nn\.Module"):
        discover_units(torch.relu, X)


def test_the_proof_refuses_the_same():
    model = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(UnsupportedModelError, match=r"lazy modules\): '0'"):
        verify_units(model, X, UnitMap(model, ()))


# ----------------------------------------------------------------------------------------------------------- handled


def compiled():
    return torch.compile(mlp())


def compiled_in_place():
    model = mlp()
    model.compile()
    return model


def compiled_in_part():
    model = mlp()
    model[0] = torch.compile(model[0])
    return model


@pytest.mark.parametrize("make", [compiled, compiled_in_place, compiled_in_part])
@pytest.mark.parametrize("form", ["tensor", "callable"])
def test_compiled_models_run_as_they_were_written_and_are_not_compiled(make, form):
    from torch._dynamo.utils import counters

    counters.clear()
    model = make()
    example = X if form == "tensor" else lambda: model(X)
    units = discover_units(model, example)
    assert [slot.path for slot in units["0"].slots] == ["0.weight", "0.bias", "2.weight"]
    assert not verify_units(model, example, units).failed
    assert not counters["frames"]


@pytest.mark.ddp
def test_models_in_ddp_have_the_names_of_the_plain_model():
    def check():
        model = nn.parallel.DistributedDataParallel(mlp())
        assert unwrapped(torch.compile(model)) is model.module
        for example in (X, lambda: model(X)):
            units = discover_units(model, example)
            assert [slot.path for slot in units["0"].slots] == ["0.weight", "0.bias", "2.weight"]
            assert units["0"].incoming[0].tensor is model.module[0].weight
            assert not verify_units(model, example, units).failed

    with_a_process_group(check)


def test_units_are_found_in_inference_mode_and_on_its_tensors():
    model = mlp()
    with torch.inference_mode():
        x = torch.randn(4, 4)
        assert len(discover_units(model, x)) == 1
    assert len(discover_units(model, x)) == 1
    assert not verify_units(model, x, discover_units(model, x)).failed
    model(X).sum().backward()
    assert model[0].weight.grad is not None


def test_a_frozen_model_has_no_groups_and_a_reason_for_every_layer():
    units = discover_units(mlp().requires_grad_(False), X)
    assert len(units) == 0
    assert {skip.layer: skip.reason for skip in units.skipped}["0"].startswith("its weight is frozen")
    assert all("else set requires_grad=True" in skip.remedy for skip in units.skipped if "frozen" in skip.reason)


def test_an_unknown_treatment_of_residual_streams_is_refused():
    with pytest.raises(
        InvalidArgumentError, match=r"Found: residual='include'\. Expected: 'skip' or 'group'\. Remedy: "
    ):
        discover_units(nn.Linear(2, 2), torch.ones(1, 2), residual="include")
