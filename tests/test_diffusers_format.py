"""Models in the format of diffusers, written and read without it; test_diffusers.py asks the library itself."""
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_models import (GOOGLE, GOOGLE_SCHEDULER, IN_DIFFUSERS, SMALL, files_below, layout_of_2022, questions,
                          same_model, small_denoiser, stand_in_for_the_hub)
from torch.testing import assert_close

from ddpm_course.formats.diffusers import (UNET_DEFAULTS, diffusers_names, scheduler_from_diffusers,
                                           scheduler_to_diffusers, unet_from_diffusers, unet_to_diffusers)
from ddpm_course.forward import NoiseSchedule, linear_beta_schedule
from ddpm_course.hub import from_diffusers, to_diffusers
from ddpm_course.lib.storage import tensors_to_bytes
from ddpm_course.objective import Denoiser
from ddpm_course.schedules import cosine_beta_schedule, make_schedule, rescale_zero_terminal_snr
from ddpm_course.unet import UNet, UNetConfig

ROOT = Path(__file__).parent.parent
OWN = NoiseSchedule(torch.linspace(0.01, 0.3, 5, dtype=torch.float64))


def on_meta(config, shape):
    "A denoiser without memory for its numbers."
    with torch.device("meta"):
        network = UNet(config)
    return Denoiser(network, make_schedule("cosine", 100), "v", shape=shape)


@pytest.mark.parametrize("ours, theirs", [
    ("conv_in.weight", ["conv_in.weight"]),
    ("norm_out.bias", ["conv_norm_out.bias"]),
    ("label_embedding.weight", ["class_embedding.weight"]),
    ("down.0.1.res.time_proj.weight", ["down_blocks.0.resnets.1.time_emb_proj.weight"]),
    ("up.1.0.res.shortcut.bias", ["up_blocks.1.resnets.0.conv_shortcut.bias"]),
    ("down.1.2.conv.weight", ["down_blocks.1.downsamplers.0.conv.weight"]),
    ("up.2.3.conv.bias", ["up_blocks.2.upsamplers.0.conv.bias"]),
    ("mid.1.res.norm1.bias", ["mid_block.resnets.1.norm1.bias"]),
    ("down.1.0.attention.norm.bias", ["down_blocks.1.attentions.0.group_norm.bias"]),
    ("down.1.0.attention.out.bias", ["down_blocks.1.attentions.0.to_out.0.bias"]),
    ("mid.0.attention.qkv.weight", [f"mid_block.attentions.0.to_{part}.weight" for part in "qkv"])])
def test_each_tensor_has_diffusers_name(ours, theirs):
    assert diffusers_names(ours) == theirs


def there_and_back(shape=None, **options):
    "A configuration out and in again, as JSON: it and the shape must be the same. Returns what was written."
    small = {"image_size": 16, "image_channels": 1, "base_channels": 8, "channel_mults": (1, 2), "num_res_blocks": 1,
             "attention_resolutions": (8,), "groups": 4}
    config = UNetConfig(**small | options)
    shape = shape or (config.image_channels, config.image_size, config.image_size)
    written = json.loads(json.dumps(unet_to_diffusers(on_meta(config, shape))))
    assert unet_from_diffusers(written) == (config, shape)
    return written


@pytest.mark.parametrize("options, written", [
    ({}, {"attention_head_dim": None, "num_class_embeds": None, "sample_size": 16}),
    ({"num_classes": 10}, {"num_class_embeds": 11}),
    ({"num_classes": 10, "null_label": False}, {"num_class_embeds": 10}),
    ({"heads": 2}, {"attention_head_dim": 8}),  # two heads of 16 channels are 8 wide
    ({"shape": (1, 16, 32)}, {"sample_size": [16, 32]}),
    ({"channel_mults": (1, 1, 3), "attention_resolutions": (16, 4), "dropout": 0.3, "num_res_blocks": 3},
     {"block_out_channels": [8, 8, 24], "dropout": 0.3, "layers_per_block": 3,
      "down_block_types": ["AttnDownBlock2D", "DownBlock2D", "AttnDownBlock2D"],
      "up_block_types": ["AttnUpBlock2D", "UpBlock2D", "AttnUpBlock2D"]}),
    ({"attention_resolutions": ()}, {"down_block_types": ["DownBlock2D"] * 2}),
    ({"attention_resolutions": (16, 8)}, {"attention_head_dim": None}),  # one head, whatever the width
    ({"image_channels": 3, "groups": 2}, {"in_channels": 3, "out_channels": 3, "norm_num_groups": 2})])
def test_a_network_s_configuration_there_and_back(options, written):
    whole = there_and_back(**options)
    assert {key: whole[key] for key in written} == written


def test_every_key_is_spelt_out():
    written = unet_to_diffusers(on_meta(UNetConfig(), (3, 32, 32)))
    assert set(written) - {"_class_name", "_diffusers_version"} == set(UNET_DEFAULTS)
    spelt = {key: list(value) if isinstance(value, tuple) else value for key, value in GOOGLE.items()}
    assert {key: written[key] for key in GOOGLE} | {"_diffusers_version": "0.0.4"} == spelt  # the paper's network


def test_the_configuration_of_2022_is_the_paper_s():
    paper = UNetConfig(dropout=0.0)
    assert unet_from_diffusers(GOOGLE) == (paper, (3, 32, 32))
    for key, value in {"act_fn": "swish", "attn_norm_num_groups": 32, "num_train_timesteps": 1000,
                       "time_embedding_dim": 512, "_name_or_path": "x", "future": None}.items():
        assert unet_from_diffusers(GOOGLE | {key: value})[0] == paper, f"{key}: the same in other words"
    assert unet_from_diffusers(GOOGLE | {"num_class_embeds": 10})[0].num_classes == 10
    assert unet_from_diffusers(GOOGLE | {"attention_head_dim": 64})[0].heads == 4
    assert unet_from_diffusers(GOOGLE | {"sample_size": [32, 64]})[1] == (3, 32, 64)


@pytest.mark.parametrize("schedule, prediction, clip, named", [
    (make_schedule("linear"), "eps", (-1.0, 1.0), True), (OWN, "eps", (-1.0, 1.0), False),
    (make_schedule("linear", 50), "x0", None, False), (make_schedule("cosine", 100), "v", (-2.0, 2.0), False),
    (make_schedule("sigmoid", 30, zero_terminal_snr=True), "v", (-1.0, 1.0), False)])
def test_a_scheduler_there_and_back(schedule, prediction, clip, named):
    denoiser = Denoiser(None, schedule, prediction, shape=(1, 8, 8), clip=clip)
    out = json.loads(json.dumps(scheduler_to_diffusers(denoiser)))
    assert (out["trained_betas"] is None) == named and out["timestep_spacing"] == "trailing"
    again = scheduler_from_diffusers(out)
    assert torch.equal(again["schedule"].exact_betas, schedule.exact_betas)
    assert (again["prediction"], again["clip"]) == (prediction, clip)


def test_the_scheduler_of_2022_and_the_curves_diffusers_names():
    read = scheduler_from_diffusers(GOOGLE_SCHEDULER)
    assert (read["prediction"], read["clip"]) == ("eps", (-1, 1))
    assert torch.equal(read["schedule"].exact_betas, NoiseSchedule(linear_beta_schedule()).exact_betas)
    assert scheduler_from_diffusers(GOOGLE_SCHEDULER | {"clip_sample": False})["clip"] is None
    line = torch.linspace(1e-4, 0.02, 100, dtype=torch.float64)  # the ends stay where they are, whatever T
    root = torch.linspace(0.01, 0.02**0.5, 1000, dtype=torch.float64)
    for change, betas in [
            ({"num_train_timesteps": 100}, line), ({"beta_schedule": "scaled_linear"}, root**2),
            ({"beta_schedule": "squaredcos_cap_v2"}, cosine_beta_schedule(1000)),
            ({"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
             rescale_zero_terminal_snr(root**2))]:
        ours = scheduler_from_diffusers(GOOGLE_SCHEDULER | change)["schedule"].exact_betas
        assert_close(ours, betas, rtol=1e-12, atol=0)


@pytest.mark.parametrize("denoiser", [
    small_denoiser(),
    small_denoiser(config=dataclasses.replace(SMALL, num_classes=None), schedule=OWN, prediction="eps",
                   shape=(1, 8, 16), clip=None),
    small_denoiser(config=dataclasses.replace(SMALL, null_label=False, heads=2), prediction="x0")],
    ids=["labels", "no labels, not square", "no 'no label', two heads"])
def test_a_folder_there_and_back(denoiser, tmp_path):
    to_diffusers(denoiser, tmp_path)
    assert sorted(files_below(tmp_path)) == sorted(IN_DIFFUSERS.values())
    back = from_diffusers(tmp_path)
    assert same_model(back, denoiser) and not back.training and not back.model.training
    assert_close(back(*questions(denoiser)).x0, denoiser(*questions(denoiser)).x0, rtol=0, atol=1e-5)
    assert back.model.mid[0].res.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert from_diffusers(str(tmp_path), device="meta").model.conv_in.weight.device.type == "meta"
    (tmp_path / IN_DIFFUSERS["index"]).unlink()  # which is not needed for reading
    assert same_model(from_diffusers(tmp_path), denoiser)


def test_an_older_export_may_be_written_over_and_the_card_says_how_to_draw(tmp_path):
    to_diffusers(small_denoiser(), tmp_path, facts={"data": "none"})
    card = (tmp_path / "README.md").read_text()
    assert "library_name: diffusers" in card and "| data | none |" in card
    assert "class_labels=y" in card and "use_clipped_model_output=True" not in card
    without = small_denoiser(config=dataclasses.replace(SMALL, num_classes=None))
    to_diffusers(without, tmp_path)
    assert same_model(from_diffusers(tmp_path), without)
    assert "use_clipped_model_output=True" in (tmp_path / "README.md").read_text()


def test_half_precision_is_read_as_float32(tmp_path):
    to_diffusers(small_denoiser(), tmp_path)
    weights = tmp_path / IN_DIFFUSERS["weights"]
    weights.write_bytes(tensors_to_bytes({name: w.half() for name, w in load_file(weights).items()}))
    assert all(p.dtype == torch.float32 for p in from_diffusers(tmp_path).model.parameters())


def test_the_layout_of_2022_is_read(tmp_path):
    names = layout_of_2022(small_denoiser(), tmp_path)
    assert len([name for name in names if ".query." in name or ".proj_attn." in name]) == 16
    assert same_model(from_diffusers(tmp_path), small_denoiser())


def test_an_id_fetches_both_layouts_and_no_pickle(tmp_path, monkeypatch):
    to_diffusers(small_denoiser(), tmp_path / "abroad")
    asked = stand_in_for_the_hub(monkeypatch, tmp_path / "abroad")
    assert same_model(from_diffusers("somebody/abroad", revision="v2"), small_denoiser())
    [(name, options)] = asked
    wanted = options["allow_patterns"]
    assert (name, options["revision"]) == ("somebody/abroad", "v2")
    assert {IN_DIFFUSERS[k] for k in ("index", "unet", "scheduler", "weights")} < set(wanted)
    assert {"config.json", "scheduler_config.json", "diffusion_pytorch_model.safetensors"} < set(wanted)
    assert not [pattern for pattern in wanted if pattern.endswith("bin") or "*" in pattern]


def test_folders_are_written_and_read_without_diffusers(tmp_path):
    program = f"""
import sys
sys.modules["diffusers"] = sys.modules["huggingface_hub"] = None  # as if they were not installed
import torch
from ddpm_course.hub import from_diffusers, to_diffusers
from ddpm_course.objective import Denoiser
from ddpm_course.schedules import make_schedule
from ddpm_course.unet import UNet, UNetConfig
model = UNet(UNetConfig(8, 1, 8, (1, 2), 1, (4,), groups=4))
to_diffusers(Denoiser(model, make_schedule("cosine"), "v", shape=(1, 8, 8)), {str(tmp_path / "model")!r})
back = from_diffusers({str(tmp_path / "model")!r})
assert all(torch.equal(w, back.model.state_dict()[name]) for name, w in model.state_dict().items())
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
