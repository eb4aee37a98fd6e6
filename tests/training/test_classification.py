"""What a classifier is trained on, and how its training is measured."""

import pytest
import torch

from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.data.backgrounds import Noise
from gradsam_exp.data.shapes import Shapes
from gradsam_exp.errors import InputError
from gradsam_exp.training.classification import FreshSamples, check_length, measure_accuracy, training_loader


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


def test_a_training_of_another_length_is_not_resumed():
    checkpoint = {"lr_schedulers": [{"total_steps": 60}]}
    check_length(checkpoint, 60, "last.ckpt")
    with pytest.raises(InputError, match=r"task\.resume=last\.ckpt is a training of 60 steps, .* make 90"):
        check_length(checkpoint, 90, "last.ckpt")
