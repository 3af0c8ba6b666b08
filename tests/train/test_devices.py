"""Many devices: processes that share a batch train as one process does, to rounding, whatever divides the weights."""

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file

from nlsr.errors import Interrupted, NlsrError, RecipeError, UsageError
from nlsr.train.course import Course
from nlsr.train.devices import Devices
from nlsr.train.recipe import Recipe

NETWORKS = {
    "kmeans": ["training.batch_size=8", "training.joined_patches=2"],
    "hash": ["network={preset='nlsn',scale=2,channels=8,num_blocks=1,chunk_size=16}"],
    "contrastive": [
        "network={preset='enlcn',scale=2,channels=8,num_blocks=1,num_features=16}",
        "training.losses={l1=1.0,attention=0.5}",
    ],
}


class Recorder(Callback):
    """The loss of each step and the gradients that reached the optimiser, of one process."""

    def __init__(self, path):
        self.path, self.losses, self.seen = path, [], []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        whole = [parameter.grad for parameter in module.network.parameters()]
        self.seen.append({str(i): getattr(g, "full_tensor", lambda g=g: g)().clone() for i, g in enumerate(whole)})

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.losses.append(outputs["loss"].detach().clone())
        if not module.accumulates(index):
            self.seen[-1]["loss"] = torch.stack(self.losses).mean()
            self.losses = []

    def on_train_end(self, trainer, module):
        torch.save(self.seen, f"{self.path}-{trainer.global_rank}.pt")


@pytest.fixture(autouse=True)
def in_double(monkeypatch):
    """Everything in float64, so that what differs is not rounding."""
    build, item = Recipe.build_network, Course.__getitem__
    monkeypatch.setattr(Recipe, "build_network", lambda self: build(self).double())
    monkeypatch.setattr(Course, "__getitem__", lambda self, number: [part.double() for part in item(self, number)])


def assert_close(tested, expected, **tolerance):
    assert tested.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(tested[name], expected[name], **tolerance, msg=name)


@pytest.mark.parametrize(("network", "strategy"), [*((name, "ddp") for name in NETWORKS), ("kmeans", "fsdp")])
def test_two_processes_train_as_one(tmp_path, fit, ranks, network, strategy):
    """Losses, gradients, and in the end weights and centroids, after three steps."""
    settings = [*NETWORKS[network], "training.steps=3", "training.accumulate=2"]
    one = fit("one", *settings, callbacks=[Recorder(tmp_path / "one")])

    def work():
        fit("two", *settings, callbacks=[Recorder(tmp_path / "two")], devices=Devices(strategy=strategy))

    assert ranks(work) == [0, 0]
    assert_close(torch_weights(tmp_path / "two"), one, rtol=0, atol=1e-9)
    whole, *halves = (torch.load(tmp_path / f"{name}.pt") for name in ("one-0", "two-0", "two-1"))
    for step, first, second in zip(whole, *halves, strict=True):
        torch.testing.assert_close((first["loss"] + second["loss"]) / 2, step["loss"], rtol=1e-9, atol=0)
        del step["loss"], first["loss"], second["loss"]
        assert_close(first, second, rtol=0, atol=0)
        assert_close(first, step, rtol=1e-7, atol=1e-12)


def torch_weights(folder):
    return load_file(folder / "tiny.safetensors")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_run_goes_on_with_another_number_of_processes(tmp_path, fit, ranks, strategy):
    """From two to one and back, to rounding."""
    whole = fit("whole")

    def work(steps, resume):
        with pytest.raises(Interrupted):
            fit("run", resume=resume, callbacks=[Stop(steps)], devices=Devices(strategy=strategy))

    assert ranks(lambda: work(2, False)) == [0, 0]
    with pytest.raises(Interrupted):
        fit("run", resume=True, callbacks=[Stop(4)])
    assert ranks(lambda: fit("run", resume=True, devices=Devices(strategy=strategy))) == [0, 0]
    assert_close(torch_weights(tmp_path / "run"), whole, rtol=0, atol=1e-7)


class Stop(Callback):
    """Asks the first process to stop after so many steps, as a signal would."""

    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.steps - 1 and trainer.is_global_zero:
            next(callback for callback in trainer.callbacks if hasattr(callback, "asked_to_stop")).asked_to_stop = True


def test_more_processes_than_divide_the_batch_are_refused_and_nothing_is_lost(tmp_path, fit, ranks):
    with pytest.raises(Interrupted):
        fit("run", callbacks=[Stop(2)])
    content = (tmp_path / "run" / "last.ckpt").read_bytes()

    def work():
        with pytest.raises(RecipeError, match="4 patches cannot be divided into 1 parts on each of 3 processes"):
            fit("run", resume=True)

    assert ranks(work, count=3) == [0, 0, 0]
    assert (tmp_path / "run" / "last.ckpt").read_bytes() == content


def test_what_fails_in_the_first_process_ends_all(tmp_path, fit, ranks):
    def work():
        (tmp_path / "run" / "curve.csv").mkdir(parents=True, exist_ok=True)
        with pytest.raises(NlsrError, match=r"curve\.csv.*the checkpoint of step 2 is intact"):
            fit("run")

    (tmp_path / "run").mkdir()
    assert ranks(work) == [0, 0]


def test_one_device_needs_no_strategy(monkeypatch):
    assert Devices().options() == {"devices": 1}
    options = Devices(4, 2).options()
    assert (options["devices"], options["num_nodes"]) == (4, 2)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setenv("WORLD_SIZE", "6")
    options = Devices().options()
    assert (options["devices"], options["num_nodes"]) == (3, 2)


def test_devices_that_are_not_there_are_named(monkeypatch):
    def missing(**_):
        raise MisconfigurationException("You requested gpu: [0, 1]\n But your machine only has: [0]")

    monkeypatch.setattr("lightning.Trainer", missing)
    with pytest.raises(UsageError, match=r"`devices=2`: not available here \(You requested gpu: \[0, 1\] But your"):
        Devices(2).trainer()


def test_muon_is_refused_where_weights_are_divided(fit):
    with pytest.raises(UsageError, match="muon needs whole weights"):
        fit("run", 'training.optimizer="muon"', devices=Devices(2, strategy="fsdp"))
