"""Optimisers and schedules: equal to torch's own schedules and to the schedule-free library used as it says."""

import itertools

import numpy as np
import pytest
import torch
from schedulefree import AdamWScheduleFree
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, MultiStepLR

from nlsr.train.optimizers import averaged, build_optimizer, rate
from nlsr.train.recipe import read_recipe


def rates_of(scheduler, steps):
    """The rates that torch's own scheduler sets."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = scheduler(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_the_rate_warms_up_and_falls_along_a_cosine(recipe_file):
    recipe = read_recipe(recipe_file, ["training.steps=102", "training.warmup_steps=2", "training.final_rate=0.1"])
    rates = [rate(step, recipe) for step in range(103)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[52] == pytest.approx(0.55)
    assert rates[102] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[2:]))


def test_cycles_of_the_cosine_equal_those_of_torch(recipe_file):
    settings = ["training.steps=40", "training.warmup_steps=0", "training.cycles=4", "training.final_rate=0.01"]
    recipe = read_recipe(recipe_file, settings)
    expected = rates_of(lambda optimizer: CosineAnnealingWarmRestarts(optimizer, 10, eta_min=0.01), 40)
    assert [rate(step, recipe) for step in range(40)] == pytest.approx(expected)


def test_milestones_equal_those_of_torch(recipe_file):
    settings = ['training.schedule="multistep"', "training.milestones=[3,7]", "training.factor=0.3"]
    recipe = read_recipe(recipe_file, [*settings, "training.steps=12", "training.warmup_steps=0"])
    expected = rates_of(lambda optimizer: MultiStepLR(optimizer, [3, 7], gamma=0.3), 12)
    assert [rate(step, recipe) for step in range(12)] == pytest.approx(expected)


def test_a_constant_rate_warms_up_too(recipe_file):
    recipe = read_recipe(recipe_file, ['training.schedule="constant"', "training.warmup_steps=4"])
    assert [rate(step, recipe) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


FREE = ['training.optimizer="schedule-free"', 'training.schedule="constant"', "training.average_decay=0"]


def descend(weight, optimizer, steps):
    for step in range(steps):
        optimizer.zero_grad()
        (weight - step).square().sum().backward()
        optimizer.step()


def test_the_schedule_free_optimiser_is_the_library_s_with_our_settings(recipe_file):
    recipe = read_recipe(recipe_file, [*FREE, "training.weight_decay=0.1", "training.eps=1e-6"])
    ours, theirs = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = build_optimizer([ours], recipe.training)
    library = AdamWScheduleFree([theirs], lr=1e-3, eps=1e-6, weight_decay=0.1, warmup_steps=2)
    library.train()
    descend(ours, optimizer, 5)
    descend(theirs, library, 5)
    torch.testing.assert_close(ours, theirs)
    library.eval()
    with averaged(optimizer):
        torch.testing.assert_close(ours, theirs)
        assert not optimizer.param_groups[0]["train_mode"]


def test_looking_at_the_average_changes_no_bit_of_the_training(recipe_file):
    recipe = read_recipe(recipe_file, FREE)
    results = []
    for looks in (False, True):
        weight = nn.Parameter(torch.linspace(-1, 1, 50))
        optimizer = build_optimizer([weight], recipe.training)
        for _ in range(4):
            descend(weight, optimizer, 3)
            if looks:
                with averaged(optimizer):
                    pass
        results.append(weight.detach().clone())
    assert torch.equal(*results)


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_settings_reach_the_optimiser(recipe_file, name, kind):
    decay = 0.0 if name == "adam" else 0.05
    recipe = read_recipe(
        recipe_file, [f"training.optimizer={name}", "training.eps=1e-5", f"training.weight_decay={decay}"]
    )
    optimizer = build_optimizer([nn.Parameter(torch.zeros(1))], recipe.training)
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (1e-3, (0.9, 0.999), 1e-5, decay)


def muon(recipe_file, parameters, *settings):
    recipe = read_recipe(recipe_file, ['training.optimizer="muon"', "training.learning_rate=0.01", *settings])
    return build_optimizer(parameters, recipe.training)


@pytest.mark.parametrize("shape", [(20, 16, 3, 3), (16, 16, 1, 1), (40, 20)])
def test_muon_turns_matrices_by_orthogonal_steps_of_one_size(recipe_file, shape):
    """Against singular vectors by numpy's decomposition: all directions count alike, whatever their gradient."""
    torch.manual_seed(0)
    weight, last = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(16, 16))
    optimizer = muon(recipe_file, [weight, last])
    weight.grad, last.grad = torch.randn(shape), torch.randn(16, 16)
    optimizer.step()
    step = weight.detach().flatten(1).numpy().astype(np.float64)
    left, _, right = np.linalg.svd(weight.grad.flatten(1).numpy().astype(np.float64), full_matrices=False)
    turned = -left.T @ step @ right.T / (0.01 * 0.4 * max(step.shape) ** 0.5)
    assert np.abs(turned - np.diag(np.diag(turned))).max() < 0.01
    assert 0.6 < np.diag(turned).min() <= np.diag(turned).max() < 1.3


def test_the_other_weights_of_muon_take_the_steps_of_adam(recipe_file):
    """Biases, narrow matrices and the last matrix, against torch's Adam."""
    torch.manual_seed(0)
    shapes = [(32,), (32, 3, 1, 1), (32, 32, 3, 3), (48, 32, 3, 3), (48,)]
    ours, theirs = ([nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    optimizer = muon(recipe_file, ours)
    reference = torch.optim.Adam(theirs, lr=0.01, betas=(0.9, 0.999), eps=1e-8)
    for _ in range(5):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = other.grad = torch.randn(one.shape)
        optimizer.step()
        reference.step()
    for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert torch.allclose(one, other, rtol=0, atol=1e-6) == (index != 2)


def test_muon_keeps_its_momentum_in_its_state(recipe_file):
    torch.manual_seed(0)
    gradients = torch.randn(6, 20, 20)
    whole, parts = (nn.Parameter(torch.zeros(20, 20)) for _ in range(2))
    last = nn.Parameter(torch.zeros(16, 16))
    optimizer = muon(recipe_file, [whole, last])
    other = muon(recipe_file, [parts, last])
    for number, gradient in enumerate(gradients):
        if number == 3:
            state = other.state_dict()
            other = muon(recipe_file, [parts, last])
            other.load_state_dict(state)
        for weight, each in ((whole, optimizer), (parts, other)):
            weight.grad = gradient
            each.step()
    assert torch.equal(whole, parts)
