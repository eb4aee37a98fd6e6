"""The classes of the data, and the outputs of a classifier that each of them is."""

from typing import Any

import pytest
import torch

from gradsam_exp.classifiers.base import CLASSIFIERS, ClassifierSource
from gradsam_exp.classifiers.classes import IMAGENET, SHIPPED, by_synset, mapped
from gradsam_exp.errors import InputError


@pytest.fixture(scope="module")
def imagenet() -> ClassifierSource:
    return CLASSIFIERS.build({"source": "imagenet"})


def test_a_class_is_the_logsumexp_of_its_outputs(imagenet: ClassifierSource):
    cats = [281, 282, 283, 284, 285]
    source = mapped(imagenet, {"cat": cats, "coffee": "espresso", "fish": ["n01440764", 1]})
    image = torch.randint(0, 256, (2, 3, 50, 60), dtype=torch.uint8)
    logits, plain = source.load()(image), imagenet.load()(image)
    expected = [plain[:, cats].exp().sum(1).log(), plain[:, 967], plain[:, [0, 1]].exp().sum(1).log()]
    assert torch.allclose(logits, torch.stack(expected, 1), atol=1e-5)
    assert source.load().class_names == source.class_names == ("cat", "coffee", "fish")
    assert source.digest not in {imagenet.digest, mapped(imagenet, {"cat": cats}).digest}


def test_one_class_can_be_all_that_is_asked_for(imagenet: ClassifierSource):
    source = mapped(imagenet, {"cat": [281, 282]})
    image = torch.randint(0, 256, (2, 3, 50, 60), dtype=torch.uint8)
    plain = imagenet.load()(image)
    assert torch.allclose(source.load()(image), plain[:, [281, 282]].logsumexp(1, keepdim=True), atol=1e-5)


def test_imagenets_classes_have_names_and_wordnet_ids():
    assert (IMAGENET.names[285], IMAGENET.synsets[285]) == ("Egyptian cat", "n02124075")
    assert (IMAGENET.names[134], IMAGENET.names[517]) == ("crane bird", "crane")
    assert len(set(IMAGENET.names)) == len(set(IMAGENET.synsets)) == 1000


@pytest.mark.parametrize("name", SHIPPED)
def test_no_output_is_two_classes_of_a_shipped_map(name: str):
    species = {"cat", "dog"} if name == "oxford_pet" else set()  # beside the breeds
    outputs = [k for cls, own in SHIPPED[name].items() if cls not in species for k in own]
    assert len(outputs) == len(set(outputs))
    assert 0 <= min(outputs) <= max(outputs) < 1000


@pytest.mark.parametrize(
    ("name", "cls", "kind"),
    [
        ("voc", "dog", "Labrador retriever"), ("voc", "bird", "toucan"), ("voc", "tvmonitor", "monitor"),
        ("coco", "hot dog", "hotdog"), ("coco", "bear", "ice bear"), ("coco", "tie", "bow tie"),
        ("coco", "boat", "gondola"), ("coco", "clock", "wall clock"), ("coco", "wine glass", "goblet"),
        ("oxford_pet", "japanese chin", "Japanese spaniel"), ("oxford_pet", "pug", "pug"),
        ("oxford_pet", "wheaten terrier", "soft-coated wheaten terrier"), ("voc", "motorbike", "moped"),
    ],
)  # fmt: skip
def test_shipped_maps_name_kinds_of_the_class(name: str, cls: str, kind: str):
    assert kind in {IMAGENET.names[k] for k in SHIPPED[name][cls]}


def test_wordnet_ids_of_the_data_are_understood(imagenet: ClassifierSource):
    source = by_synset(imagenet, ["n02124075", "n01440764"])
    assert source.class_names == IMAGENET.synsets
    image = torch.randint(0, 256, (1, 3, 50, 60), dtype=torch.uint8)
    assert torch.equal(source.load()(image), imagenet.load()(image))
    for others in (["cat", "n02124075"], ["n00000000"], []):
        assert by_synset(imagenet, others) is imagenet


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("vco", "did you mean 'voc'"),
        ({"cat": [1000]}, r"model\.map\.cat=1000: outputs go from 0 to 999"),
        ({"cat": "egyptian cats"}, "did you mean 'Egyptian cat'"),
        ({"cat": []}, r"model\.map\.cat is empty"),
        ({}, "give voc, or classes with their outputs"),
        (["cat"], "give voc, or classes with their outputs"),
    ],
)
def test_mistakes_in_a_map_are_named(given: Any, message: str, imagenet: ClassifierSource):
    with pytest.raises(InputError, match=message):
        mapped(imagenet, given)


def test_shipped_maps_are_about_imagenet():
    five = CLASSIFIERS.build({"source": "checkpoint", "checkpoint": "shipped:resnet18-shapes"})
    with pytest.raises(InputError, match=r"about ImageNet's 1,000 classes, which resnet18 has not"):
        mapped(five, "voc")
