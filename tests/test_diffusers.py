"""Models in the format of diffusers, asked of the library itself: names, defaults, levels, numbers and pictures.

Left out where diffusers is not installed. On CI it is, and there a missing proof is a failure.
"""
import dataclasses
import inspect
import json
import os
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

if not os.environ.get("CI"):
    pytest.importorskip("diffusers")
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import load_file
from small_models import (GOOGLE, GOOGLE_SCHEDULER, IN_DIFFUSERS, SMALL, layout_of_2022, random_everywhere, same_model,
                          small_denoiser)

from ddpm_course.ddim import ddim_sample, ddim_steps
from ddpm_course.ddpm import ddpm_sample, ddpm_steps
from ddpm_course.exact import GaussianMixture, IdealDenoiser
from ddpm_course.formats.diffusers import (SCHEDULER_DEFAULTS, UNET_DEFAULTS, scheduler_from_diffusers,
                                           scheduler_to_diffusers)
from ddpm_course.forward import NoiseSchedule, linear_beta_schedule
from ddpm_course.hub import from_diffusers, to_diffusers
from ddpm_course.objective import Denoiser
from ddpm_course.schedules import make_schedule
from ddpm_course.unet import UNet, UNetConfig

ROOT = Path(__file__).parent.parent


def paper(channels, size):
    return UNetConfig(image_size=size, image_channels=channels, attention_resolutions=(size // 2,))


def papers_in_diffusers(channels, size):
    return GOOGLE | {"sample_size": size, "in_channels": channels, "out_channels": channels}


def ours_to_theirs(config, seed, folder, size=0.02):
    "Our weights in their network."
    torch.manual_seed(seed)
    ours = random_everywhere(UNet(config), seed, size)
    shape = (config.image_channels, config.image_size, config.image_size)
    to_diffusers(Denoiser(ours, NoiseSchedule(linear_beta_schedule()), shape=shape), folder)
    theirs = UNet2DModel.from_pretrained(folder, subfolder="unet").eval()
    back = from_diffusers(folder).model.state_dict()
    assert all(torch.equal(w, back[name]) for name, w in ours.state_dict().items())
    return ours, theirs


def theirs_to_ours(config, seed, folder, size=0.02):
    "Their weights, in a folder that they have written, in our network."
    torch.manual_seed(seed)
    theirs = random_everywhere(UNet2DModel.from_config(config), seed, size)
    DDPMPipeline(theirs, DDPMScheduler()).save_pretrained(folder)
    return from_diffusers(folder).model, theirs


def compare(ours, theirs, batch, seed):
    "Equal answers to 1e-5 on random images, levels and labels, where the answers are neither nothing nor huge."
    g, c = torch.Generator().manual_seed(seed), ours.config
    x = torch.randn(batch, c.image_channels, c.image_size, c.image_size, generator=g)
    t = torch.randint(1000, (batch,), generator=g)
    y = None if c.num_classes is None else torch.randint(c.num_classes, (batch,), generator=g)
    with torch.inference_mode():
        a, b = ours(x, t, y), theirs(x, t, class_labels=y).sample
    assert 0.1 < a.std() < 10
    assert (a - b).abs().max() < 1e-5


@pytest.mark.parametrize("channels, size, seed, make, config", [
    (3, 32, 0, ours_to_theirs, paper), (3, 32, 1, theirs_to_ours, papers_in_diffusers),
    (1, 32, 2, ours_to_theirs, paper), (3, 64, 3, theirs_to_ours, papers_in_diffusers),
    (3, 64, 4, ours_to_theirs, paper)])
def test_the_paper_s_network_computes_what_diffusers_computes(channels, size, seed, make, config, tmp_path):
    ours, theirs = make(config(channels, size), seed, tmp_path / "model")
    assert ours.config == dataclasses.replace(paper(channels, size), dropout=ours.config.dropout)
    if channels == 3:
        assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) == 35_746_307
    for batch in (1, 3) if size == 32 else (1,):
        compare(ours, theirs, batch, seed)


@pytest.mark.parametrize("config", [
    UNetConfig(16, 1, 8, (1, 2), 1, (16, 8), groups=4, num_classes=10),
    UNetConfig(16, 3, 8, (1, 2), 1, (8,), groups=4, num_classes=10, null_label=False),
    UNetConfig(16, 1, 8, (1, 2, 3), 1, (), heads=2, groups=4)], ids=["labels", "no 'no label'", "two heads"])
def test_small_networks_with_labels_and_heads_agree_in_both_directions(config, tmp_path):
    ours, theirs = ours_to_theirs(config, 0, tmp_path / "ours", size=0.05)
    compare(ours, theirs, 5, 0)
    ours, theirs = theirs_to_ours(dict(theirs.config), 1, tmp_path / "theirs", size=0.05)
    compare(ours, theirs, 5, 1)
    assert ours.config == config


def test_tensors_have_diffusers_names_and_shapes_to_the_last_one(tmp_path):
    to_diffusers(small_denoiser(), tmp_path)
    theirs = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1,
                         norm_num_groups=4, num_class_embeds=4, attention_head_dim=None,
                         down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                         up_block_types=("AttnUpBlock2D", "UpBlock2D")).state_dict()
    written = load_file(tmp_path / IN_DIFFUSERS["weights"])
    assert {name: w.shape for name, w in written.items()} == {name: w.shape for name, w in theirs.items()}


@pytest.mark.parametrize("kind, defaults", [
    (UNet2DModel, UNET_DEFAULTS), (DDPMScheduler, SCHEDULER_DEFAULTS), (DDIMScheduler, SCHEDULER_DEFAULTS)])
def test_a_missing_key_means_what_it_means_to_diffusers(kind, defaults):
    parameters = inspect.signature(kind.__init__).parameters
    known = defaults.keys() & parameters.keys()  # an older one may lack a few
    assert len(known) > 0.7 * len(defaults)
    for key in known:
        theirs = parameters[key].default
        assert (list(theirs) if isinstance(theirs, tuple) else theirs) == defaults[key], key


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler])
@pytest.mark.parametrize("schedule", [
    make_schedule("linear"), NoiseSchedule(torch.linspace(0.01, 0.3, 5, dtype=torch.float64)),
    make_schedule("linear", 50), make_schedule("cosine", 100), make_schedule("sigmoid", 30, zero_terminal_snr=True)],
    ids=["linear", "own", "linear 50", "cosine", "sigmoid, zero terminal SNR"])
def test_their_scheduler_has_our_levels(schedule, kind):
    out = scheduler_to_diffusers(Denoiser(None, schedule, "v", shape=(1, 8, 8)))
    assert_close(kind.from_config(out).alphas_cumprod, schedule.alphas_cumprod, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("change", [
    {}, {"num_train_timesteps": 100}, {"beta_schedule": "scaled_linear"}, {"beta_schedule": "squaredcos_cap_v2"},
    {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}], ids=str)
def test_our_schedule_has_their_levels(change):
    config = GOOGLE_SCHEDULER | change
    theirs = DDPMScheduler(**{k: v for k, v in config.items() if k in SCHEDULER_DEFAULTS})
    ours = scheduler_from_diffusers(config)["schedule"]
    assert_close(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=2e-4, atol=1e-6)


def test_sigmoid_is_another_curve_there():
    "The reason why no schedule but the linear one goes out by its name."
    theirs, ours = DDPMScheduler(beta_schedule="sigmoid"), make_schedule("sigmoid")
    assert (theirs.alphas_cumprod - ours.alphas_cumprod).abs().max() > 0.1


def test_diffusers_reads_the_layout_of_2022_as_we_do_and_we_read_what_it_saves_again(tmp_path):
    denoiser = small_denoiser()
    layout_of_2022(denoiser, tmp_path / "old")
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "old")
    compare(denoiser.model, pipeline.unet.eval(), 4, 0)
    pipeline.save_pretrained(tmp_path / "again")  # in the present layout
    assert (tmp_path / "again" / IN_DIFFUSERS["unet"]).exists()
    assert same_model(from_diffusers(tmp_path / "again"), denoiser)


def draw(pipeline, n, **options):
    "Images in [-1, 1] from a pipeline of diffusers."
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(n, generator=torch.Generator().manual_seed(0), output_type="np", **options).images
    return 2 * torch.from_numpy(images).permute(0, 3, 1, 2) - 1


def seeded():
    return {"generator": torch.Generator().manual_seed(0), "progress": False}


@pytest.mark.parametrize("prediction, variance", [("eps", "small"), ("x0", "large"), ("v", "large")])
def test_pipelines_draw_our_pictures(prediction, variance, tmp_path):
    network = random_everywhere(small_denoiser(config=dataclasses.replace(SMALL, num_classes=None)).model, size=0.1)
    mine = Denoiser(network, make_schedule("linear"), prediction, shape=(1, 8, 8))
    to_diffusers(mine, tmp_path)
    theirs = draw(DDIMPipeline.from_pretrained(tmp_path), 4, num_inference_steps=25, use_clipped_model_output=True)
    ours = ddim_sample(mine, 4, steps=25, **seeded())
    assert ours.std() > 0.1
    assert_close(theirs, ours, atol=1e-4, rtol=0)
    mine = Denoiser(network, make_schedule("cosine", 25), prediction, shape=(1, 8, 8), variance=variance)
    to_diffusers(mine, tmp_path)
    theirs = draw(DDPMPipeline.from_pretrained(tmp_path), 4, num_inference_steps=25)
    assert_close(theirs, ddpm_sample(from_diffusers(tmp_path), 4, **seeded()), atol=1e-4, rtol=0)


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("steps, spacing", [(1000, "leading"), (50, "leading"), (50, "trailing"), (7, "linspace")])
def test_each_ancestral_step_is_that_of_their_scheduler(steps, spacing, variance):
    "From our state, with our noise and an ideal answer. Their 1 - alpha_bar is a float32 difference: rough at the end."
    schedule = NoiseSchedule(linear_beta_schedule())
    ideal = IdealDenoiser(GaussianMixture([[-1.0, -0.5], [1.0, 0.2]], [0.05, 0.002]), schedule)
    theirs = DDPMScheduler(trained_betas=schedule.exact_betas.numpy(), clip_sample=False, timestep_spacing=spacing,
                           variance_type=f"fixed_{variance}")
    theirs.set_timesteps(steps)
    walk = list(ddpm_steps(ideal, 50, steps=steps, spacing=spacing, variance=variance, seed=0))
    assert theirs.timesteps.tolist() == [step.t for step in walk]
    g = torch.Generator().manual_seed(0)
    torch.randn(50, 2, generator=g)  # the start
    after = [step.x_t for step in walk[1:]] + [walk[-1].x0]
    if spacing == "trailing" and variance == "large":
        walk, after = walk[:-1], after[:-1]  # where they add noise to the finished image
    for step, ours in zip(walk, after, strict=True):
        moved = theirs.step(ideal(step.x_t, step.t).eps, step.t, step.x_t, generator=g).prev_sample
        assert_close(moved, ours, rtol=0, atol=2e-5 if step.t >= 20 else 3e-4)


@pytest.mark.parametrize("steps, spacing, eta", [(1000, "leading", 0.0), (50, "leading", 0.0), (50, "leading", 1.0),
                                                 (20, "leading", 0.5), (20, "trailing", 0.0), (50, "trailing", 1.0)])
def test_a_move_of_ddim_is_theirs_where_the_steps_divide_T(steps, spacing, eta):
    "One step at a time, from one state with one noise; elsewhere their stride is another, which chapter 09 shows."
    schedule = NoiseSchedule(linear_beta_schedule())
    ideal = IdealDenoiser(GaussianMixture([[-1.0, -0.5], [1.0, 0.2]], 0.03), schedule)
    theirs = DDIMScheduler(trained_betas=schedule.exact_betas.numpy(), timestep_spacing=spacing, clip_sample=False)
    theirs.set_timesteps(steps)
    walk = list(ddim_steps(ideal, 50, steps=steps, spacing=spacing, eta=eta, seed=0))
    g = torch.Generator().manual_seed(0)
    torch.randn(50, 2, generator=g)  # that was the start
    assert theirs.timesteps.tolist() == [step.t for step in walk]
    for step, after in zip(walk, [step.x_t for step in walk[1:]] + [walk[-1].x0], strict=True):
        moved = theirs.step(ideal(step.x_t, step.t).eps, step.t, step.x_t, eta=eta, generator=g).prev_sample
        assert_close(moved, after, rtol=0, atol=3e-4 if steps == 1000 else 3e-5, check_dtype=False)


def test_a_pipeline_stops_at_a_model_with_labels(tmp_path):
    "The reason why the card of such a model shows a loop of one's own."
    to_diffusers(small_denoiser(), tmp_path)
    with pytest.raises(ValueError, match="class_labels should be provided"):
        draw(DDPMPipeline.from_pretrained(tmp_path), 1, num_inference_steps=1)


def test_the_saved_chapter_was_run_with_diffusers():
    text = (ROOT / "nbs" / "15_sharing_models.ipynb").read_text(encoding="utf-8")
    outputs = [o for c in json.loads(text)["cells"] for o in c.get("outputs", [])]
    printed = "".join("".join(o.get("text", [])) for o in outputs)
    assert "agree to 2e-5" in printed and "is not installed" not in printed
