"""What a classifier is trained on, and how its training is measured."""

import math

import pytest
import torch

from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.classifiers.transform import Transform
from gradsam_exp.data.backgrounds import Noise
from gradsam_exp.data.base import Limited
from gradsam_exp.data.shapes import Shapes
from gradsam_exp.errors import InputError
from gradsam_exp.training.classification import (
    FreshSamples,
    NetworkInput,
    RankBatches,
    measure_accuracy,
    scoring_loader,
    training_loader,
)
from gradsam_exp.types import ExampleBatch
from tests.training.album import Album


def test_fresh_samples_never_repeat_and_start_with_the_data_set():
    sampler = FreshSamples(4)
    first = list(sampler)
    sampler.set_epoch(1)
    assert first == [0, 1, 2, 3]
    assert list(sampler) == [4, 5, 6, 7]
    data = Shapes("train", Noise("train"), length=4)
    assert not torch.equal(data[0].image, data[4].image)


def test_training_batches_are_all_full(shapes: Shapes):
    for fresh in (True, False):
        batches = list(training_loader(shapes, 3, workers=0, fresh=fresh))
        assert [len(batch) for batch in batches] == [3, 3]


def test_accuracy_is_measured_for_each_class(classifier: ImageClassifier):
    """A network that answers "square" whatever it sees is right on squares only."""
    with torch.no_grad():
        classifier.backbone.fc.weight.zero_()
        classifier.backbone.fc.bias.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0]))
    found = measure_accuracy(classifier, Shapes("test", Noise("test"), length=20))
    assert found["overall"] == pytest.approx(0.2)
    assert [found["classes"][name] for name in classifier.class_names] == [0, 1, 0, 0, 0]


def test_processes_share_batches_without_repeating_or_losing_an_image():
    """Seven images in batches of two are four batches: three processes take two steps, two of them empty."""
    batches = [[0, 1], [2, 3], [4, 5], [6]]
    parts = [list(RankBatches(batches, rank, 3)) for rank in range(3)]
    assert parts == [[[0, 1], [6]], [[2, 3], []], [[4, 5], []]]


def test_processes_that_share_a_shuffled_data_set_agree_on_its_order(shapes: Shapes):
    torch.manual_seed(3)
    loaders = []
    for rank in range(2):
        loaders.append(training_loader(Limited(shapes, 7), 2, workers=0, fresh=False, rank=rank, ranks=2))
        torch.rand(rank)  # what a process has drawn before makes no difference
    orders = []
    for epoch in range(2):
        for one in loaders:
            one.batch_sampler.sampler.set_epoch(epoch)
        seen = [name for one in loaders for batch in one for name in batch.image_ids]
        assert sorted(seen) == [f"test-{k:05d}" for k in range(7)]
        orders.append(seen)
    assert orders[0] != orders[1]


def test_a_batch_larger_than_a_drawn_data_set_is_refused(shapes: Shapes):
    with pytest.raises(InputError, match=r"task\.batch_size=9 is more than the 8 training images"):
        training_loader(shapes, 9, workers=0, fresh=True)


def test_images_of_several_sizes_make_one_batch_if_the_network_wants_a_size():
    data = NetworkInput(Album(["a", "b"], [(0,), (1,)], sizes=[(40, 30), (64, 64)]), Transform(size=(24, 32)))
    (batch,) = scoring_loader(data, 4)
    assert batch.images.shape == (2, 3, 24, 32)
    assert batch.images.dtype == torch.float32
    alone = Transform(size=(24, 32))(data.dataset[1].image[None])
    torch.testing.assert_close(batch.images[1:], alone, rtol=0, atol=0)


def test_large_images_make_smaller_batches():
    data = Album(["a", "b"], [(0,), (1,), (0,)], sizes=[(40, 30)] * 3)
    sizes = [len(batch) for batch in scoring_loader(data, 4, pixels=2400)]
    assert sizes == [2, 1]
    assert [len(batch) for batch in scoring_loader(data, 4, pixels=10)] == [1, 1, 1]


def test_a_lone_image_that_shrinks_to_one_value_per_channel_is_trained_on(classifier: ImageClassifier):
    """ResNet-18's last stage makes 1×1 of 20×30 px: its batch norm has no variance, and keeps what it has."""
    classifier.train()
    batch = ExampleBatch.one_each(torch.zeros(1, 3, 20, 30, dtype=torch.uint8), None, torch.tensor([2]), ["a"])
    classifier.log = lambda *_, **__: None
    first, last = classifier.backbone.bn1, classifier.backbone.layer4[1].bn2
    loss = classifier.training_step(batch, 0)
    loss.backward()
    assert torch.isfinite(loss)
    assert classifier.backbone.fc.weight.grad.abs().sum() > 0
    assert int(first.num_batches_tracked) == 1
    assert int(last.num_batches_tracked) == 0
    assert last.training


def test_an_image_of_several_classes_goes_through_the_network_once(classifier: ImageClassifier):
    classifier.train()
    classifier.log = lambda *_, **__: None
    images = torch.zeros(2, 3, 48, 64, dtype=torch.uint8)
    names = ("a:0", "a:1", "b")
    batch = ExampleBatch(images, torch.tensor([0, 0, 1]), torch.tensor([2, 0, 1]), None, ("a", "b"), names)
    seen: list[int] = []
    classifier.backbone.conv1.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    assert torch.isfinite(classifier.training_step(batch, 0))
    assert seen == [2]


def test_an_empty_batch_has_a_gradient_of_zero_for_every_weight(classifier: ImageClassifier):
    last = training_loader(Album(["a", "b"], [(0,)]), 2, workers=0, fresh=False, rank=1, ranks=2)
    (batch,) = last
    loss = classifier.training_step(batch, 0)
    loss.backward()
    assert loss == 0
    assert all(weight.grad is not None and not weight.grad.any() for weight in classifier.parameters())


def test_a_weighted_loss_is_the_mean_of_weight_times_cross_entropy():
    """Equal logits of two classes cost log 2 each: (3 + 0.5 + 0.5) / 3 · log 2."""
    model = ImageClassifier("resnet18", ["a", "b"], class_weights=[3.0, 0.5])
    loss = model.loss(torch.zeros(3, 2), torch.tensor([0, 1, 1]))
    assert float(loss) == pytest.approx(4 / 3 * math.log(2))
    assert "class_weights" not in model.state_dict()


def test_a_class_called_all_and_a_class_without_images_are_told_from_the_average():
    """Always "square": 3 of 4 are right; the classes' mean is (1 + 0) / 2, of those that have images."""
    model = ImageClassifier("resnet18", ["all", "square", "rare"])
    with torch.no_grad():
        model.backbone.fc.weight.zero_()
        model.backbone.fc.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    found = measure_accuracy(model, Album(["all", "square", "rare"], [(1,), (1,), (0,), (1,)]))
    assert found == {"overall": 0.75, "macro": 0.5, "classes": {"all": 0.0, "square": 1.0, "rare": None}}
