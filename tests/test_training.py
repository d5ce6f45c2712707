"""Training, update by update: its random numbers, half precision, numbers that are not finite, the validation loss."""
import dataclasses
from unittest import mock

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from ddpm_course import training as training_module
from ddpm_course.app.config import TrainConfig
from ddpm_course.app.run import new_state, training_steps
from ddpm_course.data import load_digits
from ddpm_course.objective import Denoiser, diffusion_loss
from ddpm_course.training import EMA, batch_index, draw_numbers, rise_and_fall, train_step, validation_loss

TINY = TrainConfig(base_channels=8, groups=4, num_timesteps=100, batch_size=8, steps=6, warmup=2, dropout=0.1,
                   validation=16, log_every=2, device="cpu")


@pytest.fixture(scope="module")
def data():
    return load_digits()


@pytest.fixture(scope="module")
def held_out():
    return load_digits("test")


def batch_of(data, step, config=TINY):
    return data.batch(batch_index(len(data), config.batch_size, step, config.seed))


def weights(state):
    return torch.cat([p.detach().flatten() for p in state.parameters])


def train_for(data, n, config):
    "The state after `n` updates."
    state = new_state(config, 10)
    for step, _ in training_steps(state, data, config):
        if step == n:
            return state


def test_the_random_numbers_of_an_update():
    def numbers(step, **options):
        return draw_numbers(TrainConfig(batch_size=2000, image_size=2, **options), step, torch.device("cpu"))
    mirrored, t, noise, hidden = numbers(7)
    assert len(mirrored) == 0 and noise.shape == (2000, 1, 2, 2)
    assert 0 <= t.min() < 10 and 990 < t.max() <= 999
    for values, mean, variance in ((t, 499.5, 1e6 / 12), (noise, 0, 1), (noise.square(), 1, 2),
                                   (hidden, 0.1, 0.09), (numbers(7, flip=True)[0], 0.5, 0.25)):
        assert abs(values.double().mean() - mean) < 4 * (variance / values.numel()) ** 0.5  # 4 standard errors
    assert all(torch.equal(a, b) for a, b in zip((t, noise, hidden), numbers(7)[1:], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip((t, noise, hidden), numbers(8)[1:], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip((t, noise, hidden), numbers(7, seed=1)[1:], strict=True))


def test_the_random_state_of_the_caller_stays_as_it_is(data):
    before = torch.random.get_rng_state()
    train_for(data, 2, TINY)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_batch_in_parts_gives_the_weights_of_the_whole(data):
    def after_four_updates(parts):
        config, seen = dataclasses.replace(TINY, dropout=0.0, accumulate=parts), []
        state = new_state(config, 10)
        state.denoiser.model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
        for step in range(4):
            train_step(state, batch_of(data, step), config)
        assert seen == [8 // parts] * parts * 4
        return weights(state)
    assert_close(after_four_updates(4), after_four_updates(1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("weighting", ["simple", "min_snr"])
def test_an_update_follows_its_own_weighted_loss_and_forgets_the_gradient_before(data, weighting):
    config = dataclasses.replace(TINY, dropout=0.0, label_dropout=0.0, weighting=weighting, grad_clip=1e9)
    state = new_state(config, 10)
    for p in state.parameters:
        p.grad = torch.full_like(p, 1e3)  # left from elsewhere
    _, t, noise, _ = draw_numbers(config, 0, torch.device("cpu"))
    x0, y = batch_of(data, 0)
    expected = torch.autograd.grad(diffusion_loss(state.denoiser, x0, t, noise, y=y, weighting=weighting).mean(),
                                   state.parameters, allow_unused=True)
    train_step(state, (x0, y), config)
    for p, wanted in zip(state.parameters, expected, strict=True):
        assert_close(p.grad, torch.zeros_like(p) if wanted is None else wanted, rtol=1e-4, atol=1e-6)


def test_the_learning_rate_rises_stays_and_falls():
    rates = [rise_and_fall(step, steps=100, warmup=10, decay=0.2) for step in (0, 9, 50, 80, 90, 99)]
    assert rates == pytest.approx([0.1, 1, 1, 1, 0.5, 0.05])


def test_dropout_belongs_to_the_update_the_part_and_the_process(data):
    def dropped(step, rank=0, ranks=1, **change):
        "What the first dropout layer of a fresh network drops in update `step` on one of several processes."
        config, seen = dataclasses.replace(TINY, dropout=0.5, **change), []
        state = new_state(config, 10)
        state.step, state.rank, state.ranks = step, rank, ranks
        state.denoiser.eval()  # as a notebook may have left it
        state.denoiser.model.mid[0].res.dropout.register_forward_hook(lambda m, i, out: seen.append(out == 0))
        train_step(state, tuple(part[state.rows(8)] for part in batch_of(data, step)), config)
        return torch.cat(seen)
    whole = dropped(0)
    assert abs(whole.double().mean() - 0.5) < 4 * (0.25 / whole.numel()) ** 0.5  # 4 standard errors
    assert torch.equal(whole, dropped(0)) and not torch.equal(whole, dropped(1))
    halves = dropped(0, accumulate=2)
    assert not torch.equal(halves[:4], halves[4:])
    assert not torch.equal(dropped(0, 0, 2), dropped(0, 1, 2))


def test_half_of_the_images_are_mirrored(data):
    config = dataclasses.replace(TINY, flip=True, dropout=0.0, label_dropout=0.0)
    state, twin = new_state(config, 10), new_state(config, 10)
    with torch.no_grad():
        for s in (state, twin):  # away from the start, where the network answers 0 whatever it is shown
            s.denoiser.model.conv_out.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    mirrored, t, noise, _ = draw_numbers(config, 0, state.device)
    assert 0 < mirrored.sum() < 8
    x0, y = batch_of(data, 0)
    by_hand = torch.stack([image.flip(-1) if m else image for image, m in zip(x0, mirrored, strict=True)])
    expected = diffusion_loss(twin.denoiser, by_hand, t, noise, y=y).mean()
    assert_close(train_step(state, (x0, y), config), expected.detach())
    assert (expected - diffusion_loss(twin.denoiser, x0, t, noise, y=y).mean()).abs() > 1e-4


class NeverWait(TorchDispatchMode):
    "Refuses whatever asks a tensor for its value: on a graphics card the processor would wait for the answer."
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        asks = name in ("_local_scalar_dense", "nonzero", "masked_select", "equal")
        by_mask = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        assert not asks and not by_mask, f"{func} has to wait for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("waits", [lambda x: x.item(), lambda x: bool(x > 0), lambda x: int(x), lambda x: x[x > 0],
                                   lambda x: x.nonzero(), lambda x: torch.equal(x, x)])
def test_what_refuses_to_wait_does_so(waits):
    with NeverWait(), pytest.raises(AssertionError, match="has to wait for the device"):
        waits(torch.ones(()))


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_an_update_waits_for_the_device_once(data, precision):
    config = dataclasses.replace(TINY, precision=precision, flip=True, accumulate=2)
    state = new_state(config, 10)
    train_step(state, batch_of(data, 0), config)  # the first makes what later ones use
    batch = batch_of(data, 1)
    with (mock.patch("ddpm_course.forward.check_index"), mock.patch("ddpm_course.unet.check_labels"),  # only on the CPU
          mock.patch.object(EMA, "update_parameters"),  # its counter lies on the CPU
          mock.patch.object(torch.Tensor, "tolist", return_value=[True, True]) as asked, NeverWait()):
        train_step(state, batch, config)
    assert asked.call_count == 1


def test_the_average_counts_on_the_cpu_and_takes_buffers_along():
    with torch.device("meta"):
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    assert EMA(model).n_averaged.device.type == "cpu"
    model = model.to_empty(device="cpu")
    average = EMA(model)
    model[1].running_mean.fill_(3)
    model[1].num_batches_tracked.fill_(7)
    average.update_parameters(model)
    assert average.module[1].running_mean.tolist() == [3, 3] and average.module[1].num_batches_tracked == 7


def test_what_is_computed_in_which_format(data, monkeypatch):
    config = dataclasses.replace(TINY, precision="bf16")
    state, seen, loss_of = new_state(config, 10), {}, training_module.diffusion_loss
    network = state.denoiser.model

    def spy(*args, **options):
        value = loss_of(*args, **options)
        seen["loss"] = value.dtype
        return value
    monkeypatch.setattr(training_module, "diffusion_loss", spy)
    network.register_forward_pre_hook(lambda module, args: seen.update(noised=args[0].dtype))
    network.conv_in.register_forward_hook(lambda module, args, out: seen.update(product=out.dtype))
    train_step(state, batch_of(data, 0), config)
    assert seen == {"noised": torch.float32, "product": torch.bfloat16, "loss": torch.float32}
    kept = [*network.parameters(), *state.ema.parameters(), *(p.grad for p in network.parameters())]
    kept += [v for moments in state.optimizer.state.values() for v in moments.values()]
    assert {v.dtype for v in kept} == {torch.float32}


def test_half_precision_ends_near_float32(data):
    config = dataclasses.replace(TINY, steps=3, batch_size=2)
    plain, *halves = (weights(train_for(data, 3, dataclasses.replace(config, precision=precision)))
                      for precision in ("float32", "bf16", "fp16"))
    for half in halves:
        assert half.dtype == torch.float32 and 0 < (half - plain).abs().max() < 3e-3


def give_gradients(state, value):
    for p in state.parameters:
        p.grad = torch.full_like(p, value)


@pytest.mark.parametrize("loss, gradient", [(float("inf"), 1.0), (float("nan"), 1.0), (1.0, float("nan")),
                                            (1.0, float("inf"))])
def test_a_number_that_is_not_finite_changes_nothing_and_is_named(loss, gradient):
    state = new_state(TINY, 10)
    give_gradients(state, 1.0)
    training_module._update(state, torch.tensor(1.0), TINY)
    clipped = 0.1 / len(weights(state)) ** 0.5  # 1 - beta1 of a gradient of equal numbers and of norm 1
    for p in state.parameters:
        average = state.optimizer.state[p]["exp_avg"]
        assert_close(average, torch.full_like(average, clipped), rtol=1e-4, atol=0)
    before, averaged = weights(state), torch.cat([p.flatten() for p in state.ema.module.parameters()])
    give_gradients(state, gradient)
    with pytest.raises(FloatingPointError, match="at step 1, with learning rate 0.001"):
        training_module._update(state, torch.tensor(loss), TINY)
    assert torch.equal(before, weights(state)) and state.step == state.ema.n_averaged == 1
    assert torch.equal(averaged, torch.cat([p.flatten() for p in state.ema.module.parameters()]))
    assert {moments["step"].item() for moments in state.optimizer.state.values()} == {1}


def test_fp16_tries_a_smaller_scale_and_gives_up_in_the_end():
    config = dataclasses.replace(TINY, precision="fp16")

    def update(state, gradient, loss=1.0):
        "Whether the weights moved, and what the scale was multiplied by."
        give_gradients(state, gradient)
        state.scaler.scale(torch.ones(()))  # makes the scaler's own numbers
        before, scale = weights(state), state.scaler.get_scale()
        training_module._update(state, torch.tensor(loss), config)
        return not torch.equal(before, weights(state)), state.scaler.get_scale() / scale
    state = new_state(config, 10)
    assert update(state, 1.0) == (True, 1.0) and update(state, float("inf")) == (False, 0.5)
    first = next(iter(state.optimizer.state.values()))["exp_avg"]
    assert_close(first, torch.full_like(first, 0.1 / 65536), rtol=1e-5, atol=0)  # unscaled first: too short to clip
    for _ in range(16):  # one skipped update is no reason to stop, nor are a few
        update(state, float("inf"))
    assert state.scaler.get_scale() < 1
    with pytest.raises(FloatingPointError, match="not finite at step 18"):
        update(state, float("inf"))
    state = new_state(config, 10)  # a loss that is not finite is not forgiven
    with pytest.raises(FloatingPointError, match="at step 0"):
        update(state, 1.0, float("nan"))


def test_the_validation_loss_does_not_depend_on_the_size_of_batches(held_out):
    state = new_state(TINY, 10)
    whole, parts = (validation_loss(state.averaged, held_out, dataclasses.replace(TINY, batch_size=n)) for n in (8, 5))
    assert abs(whole - parts) < 1e-5


def test_dropout_is_off_while_the_validation_loss_is_measured(held_out):
    state = new_state(dataclasses.replace(TINY, dropout=0.5), 10)
    with torch.no_grad():
        g = torch.Generator().manual_seed(1)
        for p in state.parameters:  # away from the start, where the layers behind the dropout are zero
            p.add_(0.05 * torch.randn(p.shape, generator=g))
    state.denoiser.train()
    first = validation_loss(state.denoiser, held_out, TINY)
    assert first == validation_loss(state.denoiser, held_out, TINY) and state.denoiser.training
    assert first == validation_loss(state.denoiser.eval(), held_out, TINY) and not state.denoiser.training


@pytest.mark.parametrize("validation, n", [(4, 4), (1000, 1000), (10**6, 2000)], ids=["few", "half", "all there are"])
def test_each_held_out_image_is_asked_at_most_once_and_every_level_equally_often(held_out, validation, n):
    state, levels, images = new_state(TINY, 10), [], []

    class Recorded:
        def __len__(self):
            return len(held_out)

        def batch(self, index):
            images.append(index)
            return held_out.batch(index)

    def answer_0(x, t, y):
        levels.append(t)
        return torch.zeros_like(x)
    spy = Denoiser(answer_0, state.denoiser.schedule, "eps", shape=(1, 28, 28))
    spy.model.config = state.denoiser.model.config
    config = dataclasses.replace(TINY, validation=validation, batch_size=300)
    loss = validation_loss(spy, Recorded(), config)
    assert abs(loss - 1) < 4.5 * (2 / (n * 784)) ** 0.5  # the mean square of the noise, within 4.5 standard errors
    if n < 100:  # in the middle of as many equal parts of 0..99
        assert torch.cat(levels).tolist() == [12, 37, 62, 87]
    else:
        assert torch.cat(levels).bincount(minlength=100).tolist() == [n // 100] * 100
    assert len(torch.cat(images).unique()) == n
