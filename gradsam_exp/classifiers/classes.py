"""This module knows ImageNet's classes and which of them are classes of other data sets, and joins them so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gradsam_exp.classifiers.base import ClassifierSource
from gradsam_exp.classifiers.described import Mapped
from gradsam_exp.errors import InputError, did_you_mean


@dataclass(frozen=True)
class ImageNetClasses:
    """ImageNet's 1,000 classes (ILSVRC 2012) have an id, a short name and a WordNet id."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """List the names by id, as torchvision has them; no two are equal."""
        from torchvision.models import ResNet18_Weights  # noqa: PLC0415  (slow to import)

        return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])

    @cached_property
    def synsets(self) -> tuple[str, ...]:
        """List the WordNet ids (``n02123045``) by id."""
        from timm.data.imagenet_info import ImageNetInfo  # noqa: PLC0415  (slow to import)

        return tuple(ImageNetInfo("imagenet-1k").label_names())


IMAGENET = ImageNetClasses()

_BIRDS = (*range(7, 25), *range(80, 101), *range(127, 147))
_BOTTLES = (440, 720, 737, 898, 901, 907)
_CARS = (407, 436, 468, 511, 609, 627, 656, 661, 717, 734, 751, 817)
_CATS, _DOGS = range(281, 286), range(151, 269)
_BUSES, _BICYCLES, _MOTORCYCLES = (654, 779, 874), (444, 671), (665, 670)
_PLANES, _TRAINS = (404, 895), (466, 547, 565, 705, 820)
_BOATS = (472, 484, 554, 576, 625, 628, 724, 780, 814, 871, 914)
_CHAIRS, _TELEVISIONS = (423, 559, 765, 857), (664, 782, 851)

VOC: Mapping[str, Sequence[int]] = {
    "aeroplane": _PLANES, "bicycle": _BICYCLES, "bird": _BIRDS, "boat": _BOATS, "bottle": _BOTTLES,
    "bus": _BUSES, "car": _CARS, "cat": _CATS, "chair": _CHAIRS, "cow": (345,), "diningtable": (532,),
    "dog": _DOGS, "horse": (339,), "motorbike": _MOTORCYCLES, "person": (981, 982, 983), "pottedplant": (738,),
    "sheep": (348, 349), "sofa": (831,), "train": _TRAINS, "tvmonitor": _TELEVISIONS,
}  # fmt: skip
"""VOC's classes: ImageNet has kinds of them, and of persons only ballplayers, bridegrooms and scuba divers."""

COCO: Mapping[str, Sequence[int]] = {
    "person": (981, 982, 983), "bicycle": _BICYCLES, "car": _CARS, "motorcycle": _MOTORCYCLES,
    "airplane": _PLANES, "bus": _BUSES, "train": _TRAINS, "truck": (555, 569, 675, 864, 867), "boat": _BOATS,
    "traffic light": (920,), "parking meter": (704,), "bench": (703,), "bird": _BIRDS, "cat": _CATS,
    "dog": _DOGS, "horse": (339,), "sheep": (348, 349), "cow": (345,), "elephant": (101, 385, 386),
    "bear": (294, 295, 296, 297), "zebra": (340,), "backpack": (414,), "umbrella": (879,),
    "handbag": (748,), "tie": (457, 906), "skis": (795,), "sports ball": (429, 430, 574, 722, 768, 805, 852, 890),
    "tennis racket": (752,), "bottle": _BOTTLES, "wine glass": (572,), "cup": (504, 968), "bowl": (659, 809),
    "banana": (954,), "apple": (948,), "orange": (950,), "broccoli": (937,), "hot dog": (934,), "pizza": (963,),
    "chair": _CHAIRS, "couch": (831,), "potted plant": (738,), "bed": (520, 564), "dining table": (532,),
    "toilet": (861,), "tv": _TELEVISIONS, "laptop": (620, 681), "mouse": (673,), "remote": (761,),
    "keyboard": (508,), "cell phone": (487,), "microwave": (651,), "oven": (827,), "toaster": (859,),
    "sink": (896,), "refrigerator": (760,), "book": (917, 921), "clock": (409, 530, 892), "vase": (883,),
    "teddy bear": (850,), "hair drier": (589,),
}  # fmt: skip
"""60 of COCO's 80 classes; ImageNet has no counterpart of the others."""

OXFORD_PET: Mapping[str, Sequence[int]] = {
    "Egyptian Mau": (285,), "Persian": (283,), "Siamese": (284,), "basset hound": (161,), "beagle": (162,),
    "boxer": (242,), "chihuahua": (151,), "english cocker spaniel": (219,), "english setter": (212,),
    "german shorthaired": (210,), "great pyrenees": (257,), "japanese chin": (152,), "keeshond": (261,),
    "leonberger": (255,), "miniature pinscher": (237,), "newfoundland": (256,), "pomeranian": (259,),
    "pug": (254,), "saint bernard": (247,), "samoyed": (258,), "scottish terrier": (199,),
    "staffordshire bull terrier": (179,), "wheaten terrier": (202,), "yorkshire terrier": (187,),
    "cat": _CATS, "dog": _DOGS,
}  # fmt: skip
"""The 24 of Oxford Pet's 37 breeds that ImageNet has as well, and its two species."""

SHIPPED: Mapping[str, Mapping[str, Sequence[int]]] = {"voc": VOC, "coco": COCO, "oxford_pet": OXFORD_PET}


def mapped(source: ClassifierSource, given: Any) -> ClassifierSource:
    """Answer with the classes that ``model.map`` names.

    Args:
        source: the classifier.
        given: ``voc``, ``coco`` or ``oxford_pet``, for classifiers of ImageNet's classes; ``synsets``, to call
            these by their WordNet ids; or for each class its outputs (ids, names, or WordNet ids).

    Raises:
        InputError: an unknown name or output.
    """
    if isinstance(given, str):
        if given not in {*SHIPPED, "synsets"}:
            raise InputError(f"model.map={given!r} is not known{did_you_mean(given, [*SHIPPED, 'synsets'])}")
        if tuple(source.class_names) != IMAGENET.names:
            raise InputError(
                f"model.map={given} is about ImageNet's 1,000 classes, which {source.backbone} has not"
            )
        given = {name: [k] for k, name in enumerate(IMAGENET.synsets)} if given == "synsets" else SHIPPED[given]
    if not isinstance(given, Mapping) or not given:
        raise InputError(f"model.map={given!r}: give voc, or classes with their outputs: '{{cat: [281, 282]}}'")
    ids = {name: number for number, name in enumerate(source.class_names)}
    if tuple(source.class_names) == IMAGENET.names:
        ids = {**{name: number for number, name in enumerate(IMAGENET.synsets)}, **ids}
    outputs = []
    for name, own in given.items():
        wanted = list(own) if isinstance(own, Sequence) and not isinstance(own, str) else [own]
        if not wanted:
            raise InputError(f"model.map.{name} is empty: give an output's id or name, or leave the class out")
        outputs.append(tuple(_output(name, one, ids, len(source.class_names)) for one in wanted))
    return Mapped(source, tuple(map(str, given)), tuple(outputs))


def by_synset(source: ClassifierSource, classes: Sequence[str]) -> ClassifierSource:
    """Call a classifier's outputs by WordNet ids where all ``classes`` of the data are such and it knows them."""
    alike = classes and all(_is_synset(name) for name in classes) and tuple(source.class_names) == IMAGENET.names
    return mapped(source, "synsets") if alike and set(IMAGENET.synsets).issuperset(classes) else source


def _is_synset(name: str) -> bool:
    return len(name) == 9 and name[0] == "n" and name[1:].isdigit()


def _output(name: str, given: Any, ids: Mapping[str, int], count: int) -> int:
    """Find the output that is meant by its id or name."""
    if isinstance(given, int) and not isinstance(given, bool):
        if 0 <= given < count:
            return given
        raise InputError(f"model.map.{name}={given}: outputs go from 0 to {count - 1}")
    if str(given) not in ids:
        raise InputError(
            f"model.map.{name}={given!r} is not a class of the classifier{did_you_mean(str(given), ids)}"
        )
    return ids[str(given)]
