"""Training: it learns, saves what it averaged, and equal runs give equal weights, in parts or whole."""

import hashlib
import json
import pickle

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image
from safetensors.torch import load_file
from torch._dynamo.exc import TorchDynamoException

import nlsr
from nlsr.errors import ImageError, RecipeError, ShapeError, TrainingError
from nlsr.networks import Network
from nlsr.train import module
from nlsr.train.course import Course
from nlsr.train.data import Batches, Pairs, prepare
from nlsr.train.module import average_decay, update_average
from nlsr.train.recipe import Recipe, read_recipe
from nlsr.train.start import start_from
from nlsr.weights.checkpoint import read_tensors

ENLCN = ["network={preset='enlcn',scale=2,channels=8,num_blocks=1,num_features=16}"]


def assert_equal_weights(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_equal_runs_give_equal_weights_and_a_card(tmp_path, fit):
    assert_equal_weights(fit("one"), fit("two"))
    card = json.loads(read_tensors(tmp_path / "one" / "tiny.safetensors")[1]["card"])
    assert card["steps"] == 6
    assert card["psnr"]["valid"] > 5
    assert nlsr.load(tmp_path / "one" / "tiny.safetensors").scale == 2


@pytest.fixture
def in_double(monkeypatch):
    """Everything in float64, so that what differs is not rounding."""
    build, item = Recipe.build_network, Course.__getitem__
    monkeypatch.setattr(Recipe, "build_network", lambda self: build(self).double())
    monkeypatch.setattr(Course, "__getitem__", lambda self, number: [part.double() for part in item(self, number)])


@pytest.mark.parametrize(
    "network",
    [[], ["network={preset='nlsn',scale=2,channels=8,num_blocks=1,chunk_size=16}"], ENLCN],
    ids=["kmeans", "hash", "contrastive"],
)
def test_a_batch_in_parts_gives_the_weights_and_clusters_of_the_whole(fit, in_double, network):
    losses = "{l1=1.0,frequency=0.1,attention=0.5}" if network is ENLCN else "{l1=1.0}"
    settings = [*network, "training.steps=3", f"training.losses={losses}"]
    whole, parts = fit("whole", *settings), fit("parts", *settings, "training.accumulate=4")
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=0, atol=1e-9, msg=name)


class Losses(Callback):
    """The loss of each step and the terms that it was made of."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.seen.append((outputs["loss"].item(), {name: term.item() for name, term in module.step.terms.items()}))


@pytest.mark.parametrize("parts", [1, 2])
def test_loss_terms_have_their_weight_and_the_contrastive_one_its_first_step(
    tmp_path, fit, recipe_file, monkeypatch, parts
):
    monkeypatch.setattr(Network, "attention_losses", lambda self, trace: self.head.bias.sum()[None] + 3)
    nlsr.save_network(tmp_path / "teacher.safetensors", read_recipe(recipe_file, ["seed=9"]).build_network())
    weights = {
        "l1": 0.5,
        "mse": 20.0,
        "charbonnier": 3.0,
        "frequency": 0.125,
        "attention": 7.0,
        "distillation": 2.0,
    } | {"likeness": 1.5}
    losses = ",".join(f"{name}={weight}" for name, weight in weights.items())
    settings = [*ENLCN, "training.steps=3", "training.validate_every=3", f"training.accumulate={parts}"]
    settings += [f"training.teacher='{tmp_path / 'teacher.safetensors'}'"]
    recorded = Losses()
    fit("run", *settings, f"training.losses={{{losses},attention_after=2}}", callbacks=[recorded])
    assert len(recorded.seen) == 3 * parts
    for index, (loss, terms) in enumerate(recorded.seen):
        expected = weights.keys() if index >= 2 * parts else weights.keys() - {"attention"}
        assert terms.keys() == expected
        assert all(term > 0 for term in terms.values())
        total = sum(weights[name] * term for name, term in terms.items())
        assert loss * parts == pytest.approx(total, rel=1e-5)


def test_what_is_minimised_is_the_weighted_sum(fit):
    """The first gradient of a sum of terms is the weighted sum of their gradients."""
    gradients = {}

    class Gradient(Callback):
        def __init__(self, name):
            self.name = name

        def on_after_backward(self, trainer, module):
            gradients[self.name] = module.network.head.weight.grad.double().clone()

    for name, losses in {"l1": "l1=1.0", "mse": "mse=1.0", "both": "l1=0.25,mse=40.0"}.items():
        fit(
            name,
            "training.steps=1",
            "training.warmup_steps=0",
            f"training.losses={{{losses}}}",
            callbacks=[Gradient(name)],
        )
    expected = 0.25 * gradients["l1"] + 40 * gradients["mse"]
    torch.testing.assert_close(gradients["both"], expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())


def test_a_teacher_pulls_with_its_weight_and_leaves_nothing_in_the_file(tmp_path, fit, recipe_file, monkeypatch):
    """One that knows the truth teaches what the truth teaches."""
    settings = ["training.steps=3", "training.warmup_steps=1"]
    nlsr.save_network(tmp_path / "teacher.safetensors", read_recipe(recipe_file, ["seed=9"]).build_network())
    teacher = f"training.teacher='{tmp_path / 'teacher.safetensors'}'"
    alone = fit("alone", *settings)
    both = fit("both", *settings, teacher, "training.losses={l1=0.5,distillation=0.5}")
    assert not torch.equal(both["head.weight"], alone["head.weight"])
    assert both.keys() == alone.keys()
    about = json.loads(read_tensors(tmp_path / "both" / "tiny.safetensors")[1]["card"])["teacher"]
    assert about["file"] == "teacher.safetensors"
    assert about["sha256"] == hashlib.sha256((tmp_path / "teacher.safetensors").read_bytes()).hexdigest()
    monkeypatch.setattr(Pairs, "taught", lambda pairs, index: pairs[index][1])
    same = fit("same", *settings, teacher, "training.losses={l1=0.25,distillation=0.75}")
    torch.testing.assert_close(same["head.weight"], alone["head.weight"], rtol=0, atol=1e-5)


def test_a_teacher_of_another_scale_is_refused(fit):
    with pytest.raises(RecipeError, match=r"training\.teacher: lcoan-light-x4 enlarges by 4, expected 2"):
        fit("run", "training.teacher=lcoan-light-x4", "training.losses={distillation=1.0}")


def test_directions_are_drawn_again_at_the_steps_the_recipe_says(fit):
    """After steps 2 and 4 of 5; a pure function of seed and step."""
    name = "body.0.operator.projection"
    settings = [*ENLCN, "training.validate_every=100"]
    never, often, fewer = (
        fit(f"run{i}", *settings, *more)[name]
        for i, more in enumerate(
            [
                ["training.steps=5"],
                ["training.steps=5", "training.redraw_every=2"],
                ["training.steps=4", "training.redraw_every=4"],
            ]
        )
    )
    assert not torch.equal(never, often)
    assert torch.equal(often, fewer)


def test_patches_grow_and_batches_shrink_at_the_steps_the_recipe_says(fit):
    sizes = []

    class Sizes(Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            sizes.append(tuple(batch[0].shape[::2]))

    settings = ["training.patch_size=[[0,8],[2,12],[4,16]]", "training.batch_size=[[0,4],[4,2]]"]
    fit("run", *settings, callbacks=[Sizes()])
    assert sizes == [(4, 8), (4, 8), (4, 12), (4, 12), (2, 16), (2, 16)]


def test_a_stage_sees_what_a_plain_recipe_of_its_size_sees(recipe_file, data, tmp_path):
    pairs = prepare([data / "train"], scale=2, source_scales=[1.0], cache=tmp_path / "cache")
    grown = Course(read_recipe(recipe_file, ["training.patch_size=[[0,8],[3,12]]"]), pairs)
    plain = Course(read_recipe(recipe_file), pairs)
    for step, same in ((2, False), (3, True), (5, True)):
        assert torch.equal(grown[step][1], plain[step][1]) if same else grown[step][0].shape != plain[step][0].shape


def test_what_makes_batches_can_be_sent_to_a_process_that_was_not_forked(recipe_file, data, tmp_path):
    """Windows and macOS start processes anew, and pickle what these need."""
    pairs = prepare([data / "train"], scale=2, source_scales=[1.0], cache=tmp_path / "cache")
    course = Course(read_recipe(recipe_file, ["data.degradation={}", "data.augmentation.zoom=[0.8,1.0]"]), pairs)
    sent, begin = pickle.loads(pickle.dumps((course, module._deaf)))
    assert begin is module._deaf
    for here, there in zip(course[3], sent[3], strict=True):
        assert torch.equal(here, there)


def test_a_stage_whose_patch_no_image_holds_is_refused_before_training(fit, tmp_path):
    with pytest.raises(RecipeError, match="no training image holds a patch of 64x64"):
        fit("run", "training.patch_size=[[0,8],[5,64]]")
    assert not (tmp_path / "run" / "last.ckpt").exists()


@pytest.mark.parametrize("parts", [1, 2])
def test_numbers_that_are_not_finite_end_the_training_with_their_batch(tmp_path, fit, parts):
    settings = ["training.learning_rate=1e30", "training.gradient_clip=1.0", "training.validate_every=1"]
    with pytest.raises(TrainingError) as error:
        fit("run", *settings, f"training.accumulate={parts}", "training.warmup_steps=0")
    assert "of step 1 is not finite; its batch is in" in str(error.value)
    assert "\n" not in str(error.value)
    (path,) = (tmp_path / "run").glob("not-finite-step-1-rank-0.safetensors")
    batch = load_file(path)
    assert batch["low_res"].shape == (4, 3, 12, 12)
    assert batch["high_res"].shape == (4, 3, 24, 24)
    assert torch.isfinite(batch["low_res"]).all()
    assert (tmp_path / "run" / "last.ckpt").exists()


def test_what_torch_compile_makes_of_the_network_is_trained(fit, monkeypatch):
    """Compiling itself takes a minute and is left to torch."""
    calls = []

    def compile(function):
        return lambda *inputs, **options: calls.append(1) or function(*inputs, **options)

    monkeypatch.setattr(torch, "compile", compile)
    settings = ["training.steps=3", "training.validate_every=3"]
    assert_equal_weights(fit("plain", *settings), fit("compiled", *settings, "training.compile=true"))
    assert len(calls) == 3


def test_a_network_that_torch_cannot_compile_is_said_in_one_line(fit, monkeypatch):
    """As where there is no C++ compiler."""

    def failing(function):
        def fail(*inputs, **options):
            raise TorchDynamoException("no compiler\nand a long report")

        return fail

    monkeypatch.setattr(torch, "compile", failing)
    with pytest.raises(TrainingError, match=r"training\.compile: .*\(no compiler\).*install g\+\+") as error:
        fit("compiled", "training.compile=true")
    assert "\n" not in str(error.value)


def test_the_loss_falls_and_learned_clusters_fit_better_than_frozen_ones(tmp_path, data, recipe_file):
    """Mean cosine to the own centroid, at equal steps, with clusters that stay in use."""
    results = {}
    for learning in ("moving-average", "frozen"):
        recipe = read_recipe(recipe_file, [f"network.centroid_learning={learning}", "network.centroid_decay=0.9"])
        network = recipe.build_network()
        pairs = prepare([data / "train"], scale=2, source_scales=[1.0], cache=tmp_path / "cache")
        batches = Batches(pairs, patch_size=16, batch_size=4, seed=0)
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        losses = []
        for step in range(80):
            low, high = batches[step]
            trace = network.trace(low)
            loss = (trace.upscaled - high).abs().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            network.learn(network.observe(trace), generator=torch.Generator().manual_seed(step))
            losses.append(loss.item())
        ((embedding, codes),) = network.observe(network.trace(batches[1000][0]))
        results[learning] = network.operators()[0].kmeans.goodness(embedding, codes)
        assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert results["moving-average"][0] > results["frozen"][0]
    assert results["moving-average"][1] >= 0.8


def test_the_average_follows_the_network_and_copies_its_buffers(recipe_file):
    recipe = read_recipe(recipe_file)
    average, network = recipe.build_network(), recipe.build_network()
    with torch.no_grad():
        network.head.bias.fill_(1.0)
        average.head.bias.fill_(0.0)
        network.operators()[0].kmeans.centroids.fill_(7)
    update_average(average, network, 0.75)
    assert torch.allclose(average.head.bias, torch.full_like(average.head.bias, 0.25))
    assert (average.operators()[0].kmeans.centroids == 7).all()
    assert average_decay(0, recipe) == 0.1
    assert average_decay(10**6, recipe) == 0.9


def test_training_starts_from_the_weights_that_fit(recipe_file):
    other = read_recipe(recipe_file, ["network.scale=4", "seed=8"]).build_network()
    network = read_recipe(recipe_file).build_network()
    fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    nlsr.save_network(recipe_file.with_name("other.safetensors"), other)
    start_from(network, str(recipe_file.with_name("other.safetensors")))
    for name, tensor in network.state_dict().items():
        expected = fresh if name.startswith("upsample") else other.state_dict()
        assert torch.equal(tensor, expected[name]), name


def test_a_deeper_network_starts_as_the_network_that_it_grows_from(recipe_file):
    shallow = read_recipe(recipe_file, ["seed=8"]).build_network().eval()
    deeper = [f"network.num_blocks={len(shallow.groups[0].blocks) + 1}"]
    network = read_recipe(recipe_file, deeper).build_network().eval()
    nlsr.save_network(recipe_file.with_name("shallow.safetensors"), shallow)
    start_from(network, str(recipe_file.with_name("shallow.safetensors")))
    image = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(image), shallow(image))
    assert network.groups[0].blocks[-1].first.weight.abs().min() > 0, "it can learn"


def test_weights_of_another_network_are_no_start(recipe_file):
    network = read_recipe(recipe_file).build_network()
    with pytest.raises(RecipeError, match=r"start: lcoan-light-x4 fits in \d+ of \d+ tensors"):
        start_from(network, "lcoan-light-x4")


def test_clusters_of_another_number_begin_as_if_never_started(recipe_file):
    other = read_recipe(recipe_file, ["seed=9"]).build_network()
    other.operators()[0].kmeans.initialised.fill_(True)
    nlsr.save_network(recipe_file.with_name("other.safetensors"), other)
    network = read_recipe(recipe_file, ["network.num_clusters=4"]).build_network()
    fresh = network.operators()[0].kmeans.centroids.clone()
    start_from(network, str(recipe_file.with_name("other.safetensors")))
    kmeans = network.operators()[0].kmeans
    assert torch.equal(kmeans.centroids, fresh)
    assert not kmeans.initialised
    assert torch.equal(network.head.weight, other.head.weight)


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (b"rubbish", ImageError, "11.png"),
        (Image.new("RGB", (40, 14)), ShapeError, "11.png: expected 15x15 pixels or more to validate at x2, got 40x14"),
    ],
)
def test_every_validation_image_is_looked_at_before_the_first_step(tmp_path, fit, data, content, error, words):
    path = data / "valid" / "11.png"
    path.write_bytes(content) if isinstance(content, bytes) else content.save(path)
    with pytest.raises(error, match=words):
        fit("run")
    assert not (tmp_path / "run" / "last.ckpt").exists()
