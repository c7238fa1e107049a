"""Other spellings of data sets' names. Everything behind the schema sees one name for each."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

from pydantic import AfterValidator

__all__ = ["DATASET_ALIASES", "DatasetName", "canonical_dataset"]

# Case, hyphens, underscores and spaces make no difference, so `FashionMNIST` and `CIFAR-10` need no line here.
DATASET_ALIASES: dict[str, tuple[str, ...]] = {
    "aid": ("aid30", "aerial-image-dataset"),
    "cifar10": (),
    "cifar100": (),
    "clevr": ("clevr-count", "clevr-count-all", "clevr-counts"),
    "country211": (),
    "digits": ("sklearn-digits",),
    "dtd": ("textures", "describable-textures"),
    "emnist": ("emnist-balanced",),
    "eurosat": ("eurosat-rgb",),
    "fashion_mnist": ("fmnist",),
    "fer2013": ("fer",),
    "fgvc_aircraft": ("aircraft", "aircrafts", "fgvc", "fgvc-aircrafts"),
    "flowers102": ("flowers", "flower102", "oxford-flowers", "oxford-flowers102", "vgg-flowers"),
    "fmow": ("fmow-rgb", "functional-map-of-the-world"),
    "food101": ("food",),
    "gtsrb": (),
    "image_folder": (),
    "imagenet": ("imagenet-1k", "imagenet2012", "in1k", "ilsvrc", "ilsvrc2012"),
    "imagenette": (),
    "inaturalist": ("inat", "inat2021", "inaturalist2021"),
    "kmnist": ("kuzushiji-mnist",),
    "mnist": (),
    "oxford_iiit_pet": ("pet", "pets", "oxford-pet", "oxford-pets", "oxford-iiit-pets"),
    "pcam": ("patch-camelyon",),
    "places365": ("places",),
    "qmnist": (),
    "rendered_sst2": ("sst2",),
    "resisc45": ("resisc", "nwpu-resisc", "nwpu-resisc45"),
    "stanford_cars": ("car", "cars", "cars196", "stanford-car"),
    "stl10": ("stl",),
    "sun397": ("sun",),
    "svhn": ("svhn-cropped",),
    "ucmerced": ("ucm", "uc-merced-land-use"),
    "usps": (),
}


def _squashed(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()


_CANONICAL = {_squashed(spelling): name for name, others in DATASET_ALIASES.items() for spelling in (name, *others)}


def canonical_dataset(name: str) -> str:
    """The registered name of one of our data sets in any of its spellings; any other name as it is.

    >>> canonical_dataset("Oxford-Pets"), canonical_dataset("CIFAR-100"), canonical_dataset("my-set")
    ('oxford_iiit_pet', 'cifar100', 'my-set')
    """
    return _CANONICAL.get(_squashed(name), name)


class _Spellings:
    """The names of data sets in the schema that editors read: those registered, and the listed spellings of ours."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        names = list(import_module("stitching.data.datasets").DATASETS)
        others = [other for name in sorted(DATASET_ALIASES) for other in DATASET_ALIASES[name]]
        return {
            "anyOf": [
                {**handler(core_schema), "enum": names},
                {"type": "string", "enum": others, "$comment": "[another spelling](datasets.md#spellings)"},
            ]
        }


DatasetName = Annotated[str, _Spellings, AfterValidator(canonical_dataset)]
