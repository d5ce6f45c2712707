"""The images of a run: by name, from a folder, or a data set of the user's own; and what a run notes about them."""
import functools

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..data import BUNDLED, ImageDataset, hold_out, load_images
from ..lib.images import NAMED_DATASETS, UnreadableImage, fingerprints, pixel_fingerprint
from .config import TrainConfig

DATA = "data.json"


class OwnImages:
    """
    The user's own `Dataset`, whose items are (image, label) or images alone, read item by item.

    Images are float (C, H, W) in [-1, 1]; labels count from 0 and are learned where the set names its `classes`.
    """
    skipped = ()

    def __init__(self, dataset: Dataset, config: TrainConfig, index: Tensor | None = None):
        self.dataset, self.config = dataset, config
        self.index = torch.arange(len(dataset)) if index is None else index
        names = getattr(dataset, "classes", None)
        self.classes = None if names is None else [str(name) for name in names]

    def __len__(self):
        return len(self.index)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        "The images at `index` as float32 (B, C, H, W), and their labels as int64 (B,) or None."
        images, labels = zip(*(self._item(i) for i in self.index[index].tolist()))
        return torch.stack(images), None if self.classes is None else torch.tensor(labels)

    def _item(self, i: int) -> tuple[Tensor, int]:
        try:
            item = self.dataset[i]
        except Exception as error:  # whatever the user's code has come up with
            what = f"{type(error).__name__}: {error}"
            raise UnreadableImage(f"item {i} of the data set cannot be read: {what}") from error
        image, label = item if isinstance(item, (tuple, list)) else (item, 0)
        shape = (self.config.channels, self.config.image_size, self.config.image_size)
        if not isinstance(image, Tensor) or not image.is_floating_point() or image.shape != shape:
            what = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
            raise UnreadableImage(f"image {i} of the data set is {what}, expected a floating point tensor of the shape "
                                  f"(channels, image_size, image_size) = {shape}")
        if image.min() < -1 or image.max() > 1:
            raise UnreadableImage(f"image {i} of the data set has values from {image.min():g} to {image.max():g}, "
                                  f"expected -1 to 1")
        if self.classes is not None and not 0 <= label < len(self.classes):
            raise UnreadableImage(f"label {i} of the data set is {label}, expected 0 to {len(self.classes) - 1}")
        return image.float(), int(label)

    def to(self, device) -> "OwnImages":
        return self

    def hold_out(self) -> tuple["OwnImages", "OwnImages"]:
        "Those to keep and those held out, as `data.hold_out`."
        c, order = self.config, torch.randperm(len(self), generator=torch.Generator().manual_seed(self.config.seed))
        held_out, kept = order.tensor_split([int(c.holdout * len(self))])
        return OwnImages(self.dataset, c, kept.sort().values), OwnImages(self.dataset, c, held_out.sort().values)


def load_data(c: TrainConfig, own: Dataset | None = None, noted: dict | None = None):
    """
    The images to train on and those held out, or None where there are none. `ValueError` as `load_images`.

    `own`: the user's own data set in place of `c.data`. `noted`: data.json of the run that goes on, if one does: older
    runs held images out also where none were asked for.
    """
    withhold = c.validation or (noted or {}).get("held_out")
    if own is None:
        load = functools.partial(
            load_images, c.data, image_size=c.image_size, channels=c.channels, download=c.download, workers=c.workers,
            max_skipped=c.max_skipped, background=c.background, memory=c.memory)
        if not is_folder(c.data):
            return load(), load(split="test") if withhold else None
        own = load()
        was = (noted or {}).get("classes")
        if was and own.classes != was and sorted(own.classes or []) == sorted(was):
            own = own.numbered_as(was)  # older runs counted 1, 10, 2
    if not isinstance(own, ImageDataset):
        own = OwnImages(own, c)
    if not withhold or int(c.holdout * len(own)) == 0:
        return own, None
    return hold_out(own, c.holdout, c.seed) if isinstance(own, ImageDataset) else own.hold_out()


def is_folder(data: str) -> bool:
    "Whether `data` names a folder of images, and no data set."
    return data not in BUNDLED and data not in NAMED_DATASETS


def describe_data(data, held_out, own: bool = False) -> dict:
    "What data.json says: how many images, their classes and fingerprint, and which files were left out, and why."
    item_by_item = isinstance(data, OwnImages)  # only their number is known without reading all
    alike = not item_by_item and held_out is not None and type(data.images) is type(held_out.images)
    known = fingerprints(held_out)[0] if alike else None
    return {"images": len(data), "held_out": 0 if held_out is None else len(held_out), "classes": data.classes,
            "own": own, "in_memory": not item_by_item and isinstance(data.images, Tensor),
            "fingerprint": None if item_by_item else fingerprints(data)[0], "held_out_fingerprint": known,
            "skipped": [{"file": f, "reason": r} for f, r in data.skipped]}


def check_images(config: TrainConfig, data, described: dict, was: dict) -> None:
    "Before a run goes on: the images are those it was begun with, as far as can be told."
    in_memory = described["in_memory"], was.get("in_memory", described["in_memory"])
    if described["fingerprint"] and in_memory in ((True, True), (False, False)):
        held_out = described["held_out_fingerprint"], was.get("held_out_fingerprint")
        alike = was.get("fingerprint") in fingerprints(data) and (None in held_out or held_out[0] == held_out[1])
    elif described["fingerprint"] and in_memory == (False, True):
        alike = was.get("fingerprint") == pixel_fingerprint(data)
    else:  # the fingerprint of files saw their names and sizes only
        alike = all(was.get(key) == described[key] for key in ("images", "held_out"))
    if not alike:
        raise ValueError(f"the images in {config.data!r} have changed since the run was begun ({was.get('images')} "
                         f"then, {described['images']} now); expected the same, or another run folder")
