"""What trains a net for its user, and DeepSpeed: with fastadam.torch in torch.optim's place.

These packages are large, so the tests run only where this file is named: ``nox -s wrappers``.
Each trains for ten steps, saves a checkpoint, and trains ten more with a new net and a new
optimizer, which load it.
"""

import os

import numpy as np
import pytest
from migrations import after, before, off
from processes import together

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

import fastadam.torch  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # there are many, and none is fastadam's

LR = 0.01
#: torch does a step's operations in another order than fastadam, so the last bits may differ: by
#: 1e-7 in weights of about 1, in float32. Second moments that are 1 % too large in a checkpoint
#: make a difference of 7e-5 or more.
CLOSE = 2e-5


@pytest.fixture(scope="module", autouse=True)
def backend():
    """The packages around it do the same with any."""


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 13), nn.Tanh(), nn.Linear(13, 1))


def make_data():
    """Ten batches of eight, in the same order each time."""
    inputs = torch.randn(80, 7, generator=torch.Generator().manual_seed(1))
    return TensorDataset(inputs, inputs.sum(1, keepdim=True))


def make_loader():
    return DataLoader(make_data(), batch_size=8)


def loss_of(net, inputs, targets):
    return (net(inputs) - targets).square().mean()


def assert_as_with_torch(train, folder, **how):
    """`train` gives the weights after 20 steps, and the optimizer in what it was wrapped in."""
    found = []
    for optimizer_class in (fastadam.torch.AdamW, torch.optim.AdamW):
        place = folder / optimizer_class.__module__
        place.mkdir(parents=True, exist_ok=True)  # several processes share it
        weights, optimizer = train(optimizer_class, place, **how)
        while hasattr(optimizer, "optimizer"):
            optimizer = optimizer.optimizer
        assert type(optimizer) is optimizer_class
        assert {float(state["step"]) for state in optimizer.state.values()} == {20}
        found.append(weights)
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0, atol=CLOSE)


# Lightning


def with_trainer(optimizer_class, folder, automatic):
    lightning = pytest.importorskip("lightning")
    from lightning.pytorch.core.optimizer import LightningOptimizer

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = make_net()
            self.automatic_optimization = automatic

        def configure_optimizers(self):
            return optimizer_class(self.parameters(), lr=LR)

        def training_step(self, batch, _):
            loss = loss_of(self.net, *batch)
            if not automatic:
                optimizer = self.optimizers()
                assert isinstance(optimizer, LightningOptimizer)
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            return loss

    checkpoint = folder / "checkpoint"
    for epochs in (1, 2):
        module = Module()
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        resumed = checkpoint if epochs == 2 else None
        trainer.fit(module, make_loader(), ckpt_path=resumed, weights_only=True)
        trainer.save_checkpoint(checkpoint)
    return list(module.parameters()), trainer.optimizers[0]


@pytest.mark.parametrize("automatic", [True, False])
def test_lightning_trainer(automatic, tmp_path):
    assert_as_with_torch(with_trainer, tmp_path, automatic=automatic)


def with_fabric(optimizer_class, folder):
    fabric = pytest.importorskip("lightning").Fabric(accelerator="cpu", devices=1)
    for epoch in range(2):
        net = make_net()
        net, optimizer = fabric.setup(net, optimizer_class(net.parameters(), lr=LR))
        checkpoint = {"net": net, "optimizer": optimizer}
        if epoch == 1:
            fabric.load(folder / "checkpoint", checkpoint)
        for batch in fabric.setup_dataloaders(make_loader()):
            optimizer.zero_grad()
            fabric.backward(loss_of(net, *batch))
            optimizer.step()
        fabric.save(folder / "checkpoint", checkpoint)
    return list(net.parameters()), optimizer


def test_lightning_fabric(tmp_path):
    assert_as_with_torch(with_fabric, tmp_path)


# Accelerate


def with_accelerate(optimizer_class, folder, **options):
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(True)  # options hold for the whole process
    accelerator = accelerate.Accelerator(**options)
    for epoch in range(2):
        net = make_net()
        net, optimizer, loader = accelerator.prepare(
            net, optimizer_class(net.parameters(), lr=LR), make_loader()
        )
        if epoch == 1:
            accelerator.load_state(folder)
        for batch in loader:
            optimizer.zero_grad()
            accelerator.backward(loss_of(net, *batch))
            optimizer.step()
        accelerator.save_state(folder)
        accelerator.free_memory()
    return list(net.parameters()), optimizer


@pytest.mark.parametrize("mixed_precision", ["no", "bf16"])
def test_accelerate(mixed_precision, tmp_path):
    assert_as_with_torch(with_accelerate, tmp_path, cpu=True, mixed_precision=mixed_precision)


# transformers


class Model(nn.Module):
    """As transformers' Trainer wants it."""

    def __init__(self):
        super().__init__()
        self.net = make_net()

    def forward(self, inputs, labels):
        return {"loss": loss_of(self.net, inputs, labels)}


def with_transformers(optimizer_class, folder, by_class):
    transformers = pytest.importorskip("transformers")
    data = [{"inputs": inputs, "labels": labels} for inputs, labels in make_data()]
    for steps in (10, 20):
        model = Model()
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            save_steps=10,
            per_device_train_batch_size=8,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        )
        if by_class:
            given = {"optimizer_cls_and_kwargs": (optimizer_class, {"lr": LR})}
        else:
            given = {"optimizers": (optimizer_class(model.parameters(), lr=LR), None)}
        trainer = transformers.Trainer(model, arguments, train_dataset=data, **given)
        trainer.train(resume_from_checkpoint=steps == 20)
    return list(model.parameters()), trainer.optimizer


@pytest.mark.parametrize("by_class", [True, False])
def test_transformers(by_class, tmp_path):
    assert_as_with_torch(with_transformers, tmp_path, by_class=by_class)


# skorch


def with_skorch(optimizer_class, folder):
    skorch = pytest.importorskip("skorch")
    files = {"f_params": folder / "params", "f_optimizer": folder / "optimizer"}
    inputs, targets = make_data().tensors
    for epoch in range(2):
        regressor = skorch.NeuralNetRegressor(
            make_net(),
            optimizer=optimizer_class,
            lr=LR,
            batch_size=8,
            max_epochs=1,
            train_split=None,
            verbose=0,
        ).initialize()
        if epoch == 1:
            regressor.load_params(**files)
        regressor.partial_fit(inputs.numpy(), targets.numpy())
        regressor.save_params(**files)
    return list(regressor.module_.parameters()), regressor.optimizer_


def test_skorch(tmp_path):
    assert_as_with_torch(with_skorch, tmp_path)


# DeepSpeed


def make_config(stage, dtype):
    return {
        "train_micro_batch_size_per_gpu": 4,
        "zero_optimization": {"stage": stage, "offload_optimizer": {"device": "cpu"}},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": dtype == torch.bfloat16},
    }


def with_deepspeed(optimizer_class, folder, stage, dtype):
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    rank, world = dist.get_rank(), dist.get_world_size()
    for epoch in range(2):
        net = make_net()
        engine, optimizer, _, _ = deepspeed.initialize(
            model=net,
            optimizer=optimizer_class(net.parameters(), lr=LR),
            config=make_config(stage, dtype),
        )
        if epoch == 1:
            path, _ = engine.load_checkpoint(folder)
            assert path is not None
        for batch in make_loader():
            engine.backward(loss_of(engine, *(part[rank::world].to(dtype) for part in batch)))
            engine.step()
        engine.save_checkpoint(folder)
    # With bfloat16, the net itself has these numbers rounded.
    return [safe_get_full_fp32_param(param) for param in net.parameters()], optimizer


def as_launched():
    """What DeepSpeed's launcher tells each process."""
    os.environ["LOCAL_RANK"] = str(dist.get_rank())
    os.environ["LOCAL_SIZE"] = str(dist.get_world_size())


def every_stage(folder):
    as_launched()
    for stage in (1, 2, 3):
        for dtype in (torch.float32, torch.bfloat16):
            place = folder / f"stage {stage}, {dtype}"
            assert_as_with_torch(with_deepspeed, place, stage=stage, dtype=dtype)


def deepspeed_by_accelerate(folder):
    from accelerate import DeepSpeedPlugin

    as_launched()
    plugin = DeepSpeedPlugin(hf_ds_config=make_config(2, torch.float32))
    assert_as_with_torch(with_accelerate, folder, deepspeed_plugin=plugin)


@pytest.fixture
def compiled():
    """At its first use DeepSpeed compiles a part of itself, longer than `together` waits."""
    pytest.importorskip("deepspeed.comm.torch").build_shm_op()


def test_deepspeed(compiled, tmp_path):
    """The net is on the CPU as well, as on a machine without a GPU."""
    together(every_stage, 2, tmp_path)


def test_deepspeed_by_accelerate(compiled, tmp_path):
    """Accelerate does not put DeepSpeed's own optimizer in the place of ours."""
    pytest.importorskip("accelerate")
    together(deepspeed_by_accelerate, 1, tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "theirs"),
    [
        ("AdamW", {"weight_decay": 0.0}, {}),
        ("AdamW", {"weight_decay": 0.1}, {"weight_decay": 0.1}),
        ("Adam", {"weight_decay": 0.1}, {"weight_decay": 0.1, "adamw_mode": False}),
        ("AdamW", {"weight_decay": 0.0, "eps": 1e-3}, {"eps": 1e-3}),
    ],
)
def test_deepspeeds_optimizer_by_itself(name, options, theirs):
    """docs/migration.md: the same up to rounding, whose bound is that of test_migration.py."""
    optimizer_class = pytest.importorskip("deepspeed.ops.adam").DeepSpeedCPUAdam
    rng = np.random.default_rng(18)
    start, grads = rng.standard_normal(100), rng.standard_normal((100, 100))
    old, new = (nn.Parameter(torch.tensor(start, dtype=torch.float32)) for _ in range(2))
    optimizers = (
        optimizer_class([old], lr=0.01, **theirs),
        getattr(fastadam.torch, name)([new], lr=0.01, **options),
    )
    for g in grads:
        for p, optimizer in zip((old, new), optimizers, strict=True):
            p.grad = torch.tensor(g, dtype=torch.float32)
            optimizer.step()
    assert off([old.detach()], [new.detach()]) < 5e-5
    group = optimizers[0].param_groups[0]
    assert group["eps"] == options.get("eps", 1e-8)
    state = optimizers[0].state_dict()
    array = old.detach().numpy().copy()
    for optimizer in (getattr(fastadam.torch, name)([new]), getattr(fastadam, name)(array)):
        optimizer.load_state_dict(state)
        (entry,) = optimizer.state_dict()["state"].values()
        assert int(entry["step"]) == 100
        for key in ("exp_avg", "exp_avg_sq"):
            assert np.array_equal(entry[key], state["state"][0][key])
        assert optimizer.param_groups[0]["weight_decay"] == options["weight_decay"]


def test_migration_from_deepspeed(capsys):
    """The programs of docs/migration.md, whose gradients are those of the parameters."""
    pytest.importorskip("deepspeed")
    title = "DeepSpeed's CPUAdam"
    assert off(after(title, capsys), before(title)) < 5e-5


def test_what_deepspeeds_optimizer_refuses():
    optimizer_class = pytest.importorskip("deepspeed.ops.adam").DeepSpeedCPUAdam
    with pytest.raises(RuntimeError, match="AMSGrad"):
        optimizer_class([nn.Parameter(torch.ones(3))], amsgrad=True)
    optimizer = optimizer_class([nn.Parameter(torch.ones(3, dtype=torch.float64))])
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3, dtype=torch.float64)
    with pytest.raises(Exception, match=r"(?i)double|float64|type"):
        optimizer.step()
