"""A run's configuration: what may stand in it, the network it asks for, and the device it names."""
import dataclasses
import json

import pytest
import torch

from ddpm_course.app.config import TrainConfig, architecture
from ddpm_course.app.options import EvaluateConfig, SampleConfig
from ddpm_course.app.processes import pick_device


def test_a_configuration_is_the_same_after_a_trip_through_json():
    config = TrainConfig(channel_mults=(1, 2, 4), attention_resolutions=(14, 7), lr=3e-4, conditional=False)
    assert TrainConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config  # JSON knows lists, no tuples


def test_the_ends_of_each_range_are_part_of_it():
    low = {"image_size": 1, "patch_size": 1, "steps": 1, "batch_size": 1, "accumulate": 1, "num_timesteps": 1,
           "log_every": 1, "save_every": 1, "samples": 1, "sample_steps": 1, "keep": 2, "warmup": 0, "validation": 0,
           "previews": 0, "memory": 0, "workers": 0, "decay": 0, "label_dropout": 0, "ema": 0, "holdout": 0,
           "max_skipped": 0, "background": 0}
    high = {"decay": 1, "label_dropout": 1, "max_skipped": 1, "background": 255, "ema": 0.9999999,
            "holdout": 0.9999999, "sample_steps": 1000}
    for fields in (low, high):
        assert fields.items() <= dataclasses.asdict(TrainConfig(**fields)).items()


def test_the_network_that_a_configuration_asks_for():
    default = architecture(TrainConfig(), 10)
    assert default.attention_resolutions == (7,)  # 28 / 2 (pixels folded) / 2 (second level): the smallest feature map
    assert default.num_classes == 10 and default.null_label is True
    assert architecture(TrainConfig(label_dropout=0), 10).null_label is False
    named = TrainConfig(image_size=32, channels=3, base_channels=24, channel_mults=(1, 2, 3), num_res_blocks=4,
                        attention_resolutions=(16,), heads=2, groups=12, dropout=0.2, patch_size=1)
    assert dataclasses.asdict(architecture(named, None)).items() >= {
        "image_size": 32, "image_channels": 3, "base_channels": 24, "channel_mults": (1, 2, 3), "num_res_blocks": 4,
        "attention_resolutions": (16,), "heads": 2, "groups": 12, "dropout": 0.2, "patch_size": 1,
        "num_classes": None}.items()


def test_the_device_is_the_one_that_is_named_or_the_first_there_is(monkeypatch):
    assert pick_device("cpu") == torch.device("cpu")
    for cuda, mps, first in ((False, False, "cpu"), (False, True, "mps"), (True, False, "cuda"), (True, True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=cuda: there)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=mps: there)
        monkeypatch.setattr(torch.cuda, "device_count", lambda n=2 * cuda: n)
        assert pick_device() == pick_device("auto") == torch.device(first)
    assert pick_device("cuda:1") == torch.device("cuda:1")


@pytest.mark.parametrize("config", [SampleConfig, EvaluateConfig])
@pytest.mark.parametrize("name, lowest", [("n", 1), ("steps", 1), ("batch_size", 1), ("seed", 0)])
def test_whoever_draws_wants_whole_numbers_of_images_steps_and_seeds(config, name, lowest):
    config("digits", **{name: lowest})
    for bad in (lowest - 1, 1.5):
        with pytest.raises(ValueError, match=rf"^{name} is {bad}, expected a whole number"):
            config("digits", **{name: bad})
