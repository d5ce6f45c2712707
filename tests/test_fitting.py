"""What suits a machine: the choice for machines that we do not have, and a batch that is halved until it fits."""
import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from ddpm_course.app import fitting
from ddpm_course.app.config import TrainConfig
from ddpm_course.app.fitting import choose, images_for, look_around, make_it_fit, one_step
from ddpm_course.app.run import new_state
from ddpm_course.data import ImageDataset, load_digits
from ddpm_course.training import train_step

TINY = TrainConfig(base_channels=8, groups=4, num_timesteps=100, batch_size=32, steps=6, warmup=2, device="cpu")


@pytest.mark.parametrize("facts, chosen", [
    (("cuda", 141.0, 9.0, True), ("bf16", True, 512, 1, 10_000)),       # H200
    (("cuda", 80.0, 8.0, True), ("bf16", True, 512, 1, 10_000)),        # A100
    (("cuda", 15.0, 7.5, True), ("fp16", True, 512, 1, 4000)),          # T4
    (("cuda", 8.0, 6.1, True), ("float32", False, 512, 4, 2000)),       # GTX 1070
    (("cuda", 11.8, 8.6, False), ("bf16", False, 512, 1, 10_000)),      # RTX 3060 under Windows
    (("mps", None, None, False), ("float32", False, 128, 1, 2000)),
    (("cpu", None, None, False), ("float32", False, 32, 1, 120))])
def test_what_is_chosen_for_a_machine(facts, chosen):
    fields, why = choose(dict(zip(("device", "memory_gib", "capability", "triton"), facts)))
    c = TrainConfig(**fields)
    assert (c.precision, c.compile, c.batch_size, c.accumulate, c.steps) == chosen and all(why)
    assert c.batch_size % c.accumulate == 0 and fields.keys() <= {f.name for f in dataclasses.fields(c)}
    fields["batch_size"] = 1  # nobody's next choice is changed by it
    assert choose(dict(zip(("device", "memory_gib", "capability", "triton"), facts)))[0]["batch_size"] == chosen[2]


def test_what_is_known_of_a_device(monkeypatch):
    about = SimpleNamespace(name="Tesla T4", total_memory=15 * 2**30, major=7, minor=5)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: about)
    monkeypatch.setattr(fitting, "find_spec", lambda name: name == "triton")
    assert look_around(torch.device("cuda")) == {"device": "cuda", "name": "Tesla T4", "memory_gib": 15.0,
                                                 "capability": 7.5, "triton": True}
    assert look_around(torch.device("cpu"))["memory_gib"] is None


def stingy(config):
    "A machine that has room for parts of 8 images."
    if config.batch_size // config.accumulate > 8:
        raise torch.OutOfMemoryError("pretended")


def test_a_batch_is_halved_until_it_fits_and_the_result_is_the_same(capsys):
    fitted = make_it_fit(TINY, stingy)
    assert fitted == dataclasses.replace(TINY, accumulate=4)
    assert capsys.readouterr().out.splitlines()[-1] == "out of memory: the batch of 32 now goes through in 4 parts"
    weights = []
    for config in (TINY, fitted):
        state = new_state(config, 10)
        for step in range(2):
            train_step(state, load_digits().batch(torch.arange(32) + 32 * step), config)
        weights.append(torch.cat([p.detach().flatten() for p in state.denoiser.parameters()]))
    assert_close(weights[0], weights[1], rtol=0, atol=1e-4)


def test_apples_words_for_a_full_memory_are_understood():
    def full(config):
        if config.accumulate == 1:
            raise RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)")
    assert make_it_fit(TINY, full).accumulate == 2


def test_a_compiler_that_fails_is_left_out(capsys):
    def no_compiler(config):
        if config.compile:
            raise RuntimeError("no compiler")
        stingy(config)
    fitted = make_it_fit(dataclasses.replace(TINY, compile=True), no_compiler)
    assert fitted.accumulate == 4 and not fitted.compile
    assert "torch.compile does not work here (RuntimeError)" in capsys.readouterr().out


def test_one_step_is_tried_with_more_images_than_there_are():
    data = load_digits()
    one_step(TINY, ImageDataset(data.images[:5], data.labels[:5], data.classes))


def test_without_mnist_the_bundled_digits_take_its_place(monkeypatch, capsys):
    real = fitting.load_data

    def offline(config):
        if config.data in ("mnist", "cifar10"):
            raise ValueError(f"data set {config.data!r} is not in 'data'; the download failed")
        return real(config)
    monkeypatch.setattr(fitting, "load_data", offline)
    data, held_out, config = images_for(TrainConfig(data="mnist", download=True))
    assert (len(data), len(held_out), config.data) == (10_000, 2_000, "digits")
    assert "the bundled digits take the place of MNIST: data set 'mnist' is not in" in capsys.readouterr().out
    with pytest.raises(ValueError, match="'cifar10' is not in"):  # nothing stands for other pictures
        images_for(TrainConfig(data="cifar10"))
