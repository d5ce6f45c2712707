"""The parts of the UNet one by one, how they are put together, and its options: labels, folding, other sizes."""
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ddpm_course.data import load_digits
from ddpm_course.embedding import TimeEmbedding
from ddpm_course.hub import load_pretrained
from ddpm_course.unet import (Attention, Downsample, ResBlock, Stage, UNet, UNetConfig, Upsample, _build_levels, _norm,
                              _zero)

SMALL = UNetConfig(28, 1, 16, (1, 2, 2), attention_resolutions=(14,), groups=4, dropout=0.0)
TINY = UNetConfig(8, 1, 8, (1, 2), 1, (4,), groups=2, dropout=0.0)
TIMES = torch.tensor([0, 500, 999])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def wake(module):
    "Give the layers that start at zero the weights of any other layer: a new network answers zero to everything."
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and not layer.weight.any():
            layer.reset_parameters()
    return module.eval()


def parameters(*modules):
    return sum(p.numel() for m in modules for p in m.parameters())


# ---- the configuration


def test_the_defaults_are_those_of_the_paper():
    paper = UNetConfig()
    assert (paper.dropout, paper.heads, paper.groups, paper.resolutions) == (0.1, 1, 32, [32, 16, 8, 4])
    assert UNetConfig(image_size=64, patch_size=2).resolutions == [32, 16, 8, 4] and SMALL.resolutions == [28, 14, 7]


def test_a_configuration_survives_json():
    assert UNetConfig(channel_mults=[1, 2, 2, 2], attention_resolutions=[16]) == UNetConfig()
    numbers = UNetConfig(base_channels=np.int64(64), num_classes=np.int64(10), heads=torch.tensor(2))
    assert {type(value) for value in (numbers.base_channels, numbers.num_classes, numbers.heads)} == {int}


def test_a_group_of_one_channel_is_warned_of_because_it_hides_the_time():
    with pytest.warns(UserWarning, match="a group of one channel normalises away"):
        UNetConfig(base_channels=32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        UNetConfig(base_channels=64)
    embed, h = TimeEmbedding(32, 64), torch.randn(1, 32, 8, 8)
    first, last = (F.silu(embed(torch.tensor([t]))) for t in (0, 999))
    moved = [(block(h, first) - block(h, last)).abs().max()
             for block in (wake(ResBlock(32, 32, 64, dropout=0.0, groups=groups)) for groups in (8, 32))]
    assert moved[0] > 0.01 and moved[1] < 1e-5


# ---- the parts


def test_group_normalisation_sees_one_image_at_a_time():
    h, norm = 1e-3 * torch.randn(4, 8, 5, 5, dtype=torch.float64) + 2e-3, _norm(8, groups=2).double()
    torch.testing.assert_close(norm(h)[:1], norm(h[:1]), atol=1e-12, rtol=0)
    assert not any(p.any() for p in _zero(nn.Linear(3, 2)).parameters())


def test_a_new_block_is_its_shortcut_also_with_dropout_on():
    h, e = torch.randn(4, 8, 6, 6), torch.randn(4, 32)
    same, wider = ResBlock(8, 8, 32, dropout=0.5, groups=2), ResBlock(8, 16, 32, dropout=0.5, groups=2)
    assert same(h, e).equal(h) and wider(h, e).equal(wider.shortcut(h)) and wider(h, e).shape == (4, 16, 6, 6)


def test_dropout_is_what_goes_into_the_second_convolution():
    block, seen = wake(ResBlock(8, 16, 32, dropout=0.5, groups=2)), []
    block.conv2.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    h, e = torch.randn(4, 8, 6, 6), torch.randn(4, 32)
    block(h, e), block.train()(h, e)
    whole, dropped = seen
    kept = dropped != 0
    share, standard_error = kept.float().mean().item(), (0.25 / kept.numel()) ** 0.5
    assert (whole != 0).all() and abs(share - 0.5) < 4 * standard_error
    torch.testing.assert_close(dropped[kept], 2 * whole[kept])


def test_attention_starts_as_the_identity_sees_all_pixels_and_does_not_know_their_places():
    layer, h = Attention(8, heads=1, groups=2).double(), torch.randn(2, 8, 3, 5, dtype=torch.float64)
    assert layer(h).equal(h)
    order = torch.randperm(15)
    shuffled = lambda h: h.flatten(2)[:, :, order].view_as(h)
    torch.testing.assert_close(wake(layer)(shuffled(h)), shuffled(layer(h)), atol=1e-6, rtol=0)
    h.requires_grad_()
    assert torch.autograd.grad(layer(h)[0, :, -1, -1].square().sum(), h)[0][0, :, 0, 0].abs().max() > 1e-6


def test_several_heads_are_those_of_pytorch_and_not_one_head():
    four, reference = wake(Attention(8, heads=4, groups=2)), nn.MultiheadAttention(8, 4, batch_first=True)
    reference.load_state_dict({"in_proj_weight": four.qkv.weight, "in_proj_bias": four.qkv.bias,
                               "out_proj.weight": four.out.weight, "out_proj.bias": four.out.bias})
    h = torch.randn(2, 8, 3, 5)
    tokens = four.norm(h).flatten(2).transpose(1, 2)
    theirs = reference(tokens, tokens, tokens)[0].transpose(1, 2).view_as(h)
    torch.testing.assert_close(four(h), h + theirs, atol=1e-5, rtol=0)
    one = Attention(8, heads=1, groups=2)
    one.load_state_dict(four.state_dict())  # no error: the same weights, read in another way
    assert (one(h) - four(h)).abs().max() > 1e-3


def test_downsample_pads_at_the_right_and_the_bottom_only():
    numbers, down = torch.arange(36.0).view(1, 1, 6, 6), Downsample(1)
    with torch.no_grad():
        _zero(down.conv).weight[0, 0, 1, 1] = 1  # copies the pixel under the middle of the kernel
    assert down(numbers).equal(numbers[:, :, 1::2, 1::2])
    assert F.conv2d(numbers, down.conv.weight, stride=2, padding=1).equal(numbers[:, :, 0::2, 0::2])
    nn.init.ones_(down.conv.weight)  # a sum of nine pixels, or of those that exist
    assert down(numbers)[0, 0, 0, 0] == numbers[0, 0, :3, :3].sum()
    assert down(numbers)[0, 0, -1, -1] == numbers[0, 0, 4:, 4:].sum()
    assert Downsample(4)(torch.zeros(2, 4, 8, 6)).shape == (2, 4, 4, 3)
    read = torch.zeros(1, 1, 12, 12, requires_grad=True)
    down(read).sum().backward()
    assert read.grad.unique().tolist() == [1, 2, 4]  # how often a pixel is read: a checkerboard in the gradient


def test_upsample_repeats_and_keeps_a_flat_map_flat():
    numbers, up = torch.arange(36.0).view(1, 1, 6, 6), Upsample(1)
    flat = up(torch.full((1, 1, 8, 8), 3.0))[0, 0, 1:-1, 1:-1]
    assert flat.std() < 1e-6
    for side in (2, 3, 4):
        transposed = nn.ConvTranspose2d(1, 1, side, stride=2)(torch.full((1, 1, 8, 8), 3.0))
        assert transposed[0, 0, 4:-4, 4:-4].std() > 0.1
    with torch.no_grad():
        _zero(up.conv).weight[0, 0, 1, 1] = 1
    assert up(numbers).equal(numbers.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
    assert Upsample(4)(torch.zeros(2, 4, 4, 3)).shape == (2, 4, 8, 6)


def test_a_stage_is_a_block_and_attention_where_it_is_asked_for():
    h, e = torch.randn(2, 16, 6, 6), torch.randn(2, 64)
    plain, looking = (wake(Stage(16, 32, 64, SMALL, attention=attention)) for attention in (False, True))
    assert plain(h, e).equal(plain.res(h, e)) and looking(h, e).shape == (2, 32, 6, 6)
    torch.testing.assert_close(looking(h, e), looking.attention(looking.res(h, e)))
    assert (looking(h, e) - looking.res(h, e)).abs().max() > 1e-3
    choice = Stage(128, 128, 64, UNetConfig(heads=4, dropout=0.25), attention=True)
    assert (choice.attention.heads, choice.res.dropout.p) == (4, 0.25)
    assert choice.res.norm1.num_groups == choice.res.norm2.num_groups == choice.attention.norm.num_groups == 32


# ---- the whole


def test_attention_sits_at_its_resolutions_in_both_arms_and_first_in_the_middle():
    attends = lambda layer: isinstance(getattr(layer, "attention", None), Attention)
    down, up = ([[attends(layer) for layer in level] for level in arm] for arm in _build_levels(SMALL, emb_dim=64))
    assert down == [[False] * 3, [True] * 2 + [False], [False] * 2]
    assert up == [[False] * 4, [True] * 3 + [False], [False] * 3]
    assert [attends(stage) for stage in UNet(TINY).mid] == [True, False]


def test_the_layers_are_wired_as_a_u():
    u = wake(UNet(replace(TINY, num_classes=10)))
    x, y = torch.randn(3, 1, 8, 8), torch.tensor([1, 2, 3])
    e = F.silu(u.time_embedding(TIMES) + u.label_embedding(y))
    a = u.conv_in(x)
    b = u.down[0][0](a, e)
    c = u.down[0][1](b)
    d = u.down[1][0](c, e)
    h = u.mid[1](u.mid[0](d, e), e)
    h = u.up[0][1](torch.cat([u.up[0][0](torch.cat([h, d], 1), e), c], 1), e)
    h = u.up[0][2](h)
    h = u.up[1][1](torch.cat([u.up[1][0](torch.cat([h, b], 1), e), a], 1), e)
    torch.testing.assert_close(u(x, TIMES, y), u.conv_out(F.silu(u.norm_out(h))))


def test_a_new_network_answers_zero_and_learns_everywhere_after_two_updates():
    model = UNet(SMALL)
    x, t, eps = torch.randn(8, 1, 28, 28), torch.randint(1000, (8,)), torch.randn(8, 1, 28, 28)
    assert model(x, t).shape == x.shape and not model(x, t).any()
    optimizer, asleep = torch.optim.Adam(model.parameters(), lr=1e-3), []
    for _ in range(3):
        optimizer.zero_grad()
        (model(x, t) - eps).square().mean().backward()
        asleep.append({name for name, p in model.named_parameters() if not p.grad.any()})
        optimizer.step()
    assert {n for n, _ in model.named_parameters()} - asleep[0] == {"conv_out.weight", "conv_out.bias"}
    assert "mid.0.res.conv1.weight" in asleep[1] and "mid.0.res.conv2.weight" not in asleep[1] and not asleep[2]


def test_what_the_papers_network_holds_and_costs():
    with torch.device("meta"):
        paper = UNet()
        with FlopCounterMode(display=False) as counter:
            images = torch.empty(1, 3, 32, 32)
            assert paper(images, torch.empty(1, dtype=torch.int64)).shape == images.shape
    flops = {name.removeprefix("UNet."): sum(kinds.values()) for name, kinds in counter.get_flop_counts().items()}
    looks = [name for name, module in paper.named_modules() if isinstance(module, Attention)]
    assert parameters(paper) == 35_746_307 and round(counter.get_total_flops() / 1e6, 1) == 12_443.7
    assert len(looks) == 6 and parameters(*map(paper.get_submodule, looks)) < 0.05 * parameters(paper)
    assert sum(flops[name] for name in looks) < 0.1 * counter.get_total_flops()
    assert parameters(paper.up) > 0.5 * parameters(paper)
    assert parameters(ResBlock(128, 256, 512, dropout=0.1, groups=32)) == 1_050_368


def test_how_far_each_level_sees():
    "By equation (7.1): 3 after the first convolution, 11, 29, 65 at the end of the levels, 97 in the middle."
    def bare(module):  # without the layers that see the whole picture at once
        for name, child in module.named_children():
            if isinstance(child, (nn.GroupNorm, Attention)):
                setattr(module, name, nn.Identity())
            else:
                bare(child)
        return module

    model = bare(wake(UNet(SMALL))).double()
    canvas = torch.randn(1, 1, 128, 128, dtype=torch.float64, requires_grad=True)
    layers = [model.conv_in, *(level[1] for level in model.down), model.mid[1]]
    for layer, side in zip(layers, (3, 11, 29, 65, 97)):
        outputs = []
        hook = layer.register_forward_hook(lambda layer, inputs, out: outputs.append(out))
        model(canvas, torch.zeros(1, dtype=torch.int64))
        hook.remove()
        middle = outputs[0].shape[-1] // 2
        seen = torch.autograd.grad(outputs[0][0, :, middle, middle].sum(), canvas)[0][0, 0] != 0
        low, high = seen.nonzero().aminmax(dim=0)
        assert (high - low + 1).tolist() == [side, side] and seen.sum() == side**2  # no holes


def test_no_label_is_one_more_label_and_what_none_means():
    labelled, x = wake(UNet(replace(TINY, num_classes=10))), torch.randn(3, 1, 8, 8)
    assert labelled.label_embedding.weight.shape == (11, 32)
    assert labelled(x, TIMES).equal(labelled(x, TIMES, torch.full((3,), 10)))
    assert (labelled(x, TIMES, torch.tensor([1, 2, 3])) - labelled(x, TIMES)).abs().amax((1, 2, 3)).min() > 1e-3
    assert UNet(replace(TINY, num_classes=10, null_label=False)).label_embedding.weight.shape == (10, 32)


def test_self_conditioning_comes_after_the_image_and_none_means_zeros():
    model, x, x0_prev = wake(UNet(replace(TINY, self_conditioning=True))), *torch.randn(2, 3, 1, 8, 8)
    assert model.conv_in.in_channels == 2
    assert model(x, TIMES).equal(model(x, TIMES, x0_prev=torch.zeros_like(x)))
    assert (model(x, TIMES) - model(x, TIMES, x0_prev=x0_prev)).abs().max() > 1e-3
    model.conv_in.weight.data[:, 1:] = 0
    assert model(x, TIMES).equal(model(x, TIMES, x0_prev=x0_prev))


def test_folding_is_the_same_network_on_squares_of_pixels():
    folded = F.pixel_unshuffle(torch.arange(16.0).view(1, 1, 4, 4), 2)
    assert folded.shape == (1, 4, 2, 2) and folded[0, :, 0, 0].tolist() == [0, 1, 4, 5]
    folding = wake(UNet(replace(TINY, image_size=16, image_channels=2, patch_size=2)))
    assert folding.config.resolutions == [8, 4] and folding.conv_in.in_channels == folding.conv_out.out_channels == 8
    inner, whole = UNet(replace(TINY, image_channels=8)).eval(), torch.randn(3, 2, 16, 16)
    inner.load_state_dict(folding.state_dict())
    assert folding(whole, TIMES).shape == whole.shape
    torch.testing.assert_close(F.pixel_unshuffle(folding(whole, TIMES), 2), inner(F.pixel_unshuffle(whole, 2), TIMES))


@pytest.mark.parametrize("height, width, channels", [(4, 4, 1), (20, 36, 1), (28, 44, 1), (28, 28, 3), (28, 28, 5)])
def test_other_sizes_and_channels(height, width, channels):
    images = torch.zeros(2, channels, height, width)
    assert UNet(replace(SMALL, image_channels=channels))(images, TIMES[:2]).shape == images.shape


@pytest.mark.parametrize("side, mults, others", [
    (32, (1, 2, 4, 4), dict(attention_resolutions=(16, 8))),
    (32, (1, 2, 4), dict(attention_resolutions=(), num_res_blocks=1, groups=8)),
    (128, (1, 2, 4, 8), dict(heads=4))], ids=["two levels of attention", "attention in the middle only", "128 x 128"])
def test_networks_of_other_texts(side, mults, others):
    with torch.device("meta"):
        images = torch.empty(2, 3, side, side)
        model = UNet(UNetConfig(side, 3, 64, mults, **others))
        assert model(images, torch.empty(2, dtype=torch.int64)).shape == images.shape


def test_the_bundled_model_beats_the_best_linear_guess():
    """
    In the eigenvectors of the pixels' covariance, with variances l, the best linear guess of the noise leaves the mean
    of a l / (a l + 1 - a), where a is alpha-bar.
    """
    flat = load_digits().batch(torch.arange(10_000))[0].flatten(1).double()
    flat -= flat.mean(0)
    spread = torch.linalg.eigvalsh(flat.T @ flat / len(flat)).clamp(min=0)
    trained, faces = load_pretrained("digits"), load_digits("test").batch(torch.arange(16))[0]
    noise = torch.randn(faces.shape)
    for level in (0, 62, 250, 500, 750):
        a = trained.schedule.alpha_bar(level).double()
        best = (a * spread / (a * spread + 1 - a)).mean()
        with torch.no_grad():
            eps = trained(trained.schedule.q_sample(faces, level, noise), level).eps
        assert (eps - noise).square().mean() < best
