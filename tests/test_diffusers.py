"""The network of Ho et al. in full size against diffusers' `UNet2DModel`; chapter 10 compares small ones.

Left out where diffusers is not installed. On CI it is, and there a missing proof is a failure.
"""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

if not os.environ.get("CI"):
    pytest.importorskip("diffusers")
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from ddpm_course.forward import NoiseSchedule, linear_beta_schedule
from ddpm_course.hub import from_diffusers, to_diffusers
from ddpm_course.objective import Denoiser
from ddpm_course.unet import UNet, UNetConfig

ROOT = Path(__file__).parent.parent
GOOGLE = dict(  # the config.json of google/ddpm-cifar10-32
    sample_size=32, in_channels=3, out_channels=3, layers_per_block=2, block_out_channels=(128, 256, 256, 256),
    down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"), attention_head_dim=None, act_fn="silu",
    center_input_sample=False, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, mid_block_scale_factor=1,
    norm_eps=1e-6, norm_num_groups=32, time_embedding_type="positional")


def random_everywhere(model, seed):
    "Moves every weight from its start: layers that begin at zero would hide what comes before them."
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=g))
    return model.eval()


def ours_to_theirs(channels, size, seed, folder):
    torch.manual_seed(seed)
    config = UNetConfig(image_size=size, image_channels=channels, attention_resolutions=(size // 2,))
    ours = random_everywhere(UNet(config), seed)
    schedule = NoiseSchedule(linear_beta_schedule())
    to_diffusers(Denoiser(ours, schedule, shape=(channels, size, size)), folder)
    theirs = UNet2DModel.from_pretrained(folder, subfolder="unet").eval()
    back = from_diffusers(folder).model.state_dict()
    assert all(torch.equal(w, back[name]) for name, w in ours.state_dict().items())
    return ours, theirs


def theirs_to_ours(channels, size, seed, folder):
    torch.manual_seed(seed)
    sizes = dict(sample_size=size, in_channels=channels, out_channels=channels)
    theirs = random_everywhere(UNet2DModel(**{**GOOGLE, **sizes}), seed)
    DDPMPipeline(theirs, DDPMScheduler()).save_pretrained(folder)
    ours = from_diffusers(folder)
    assert ours.shape == (channels, size, size) and ours.model.config.attention_resolutions == (size // 2,)
    return ours.model, theirs


@pytest.mark.parametrize("channels, size, seed, make", [
    (3, 32, 0, ours_to_theirs), (3, 32, 1, theirs_to_ours), (1, 32, 2, ours_to_theirs),
    (3, 64, 3, theirs_to_ours), (3, 64, 4, ours_to_theirs)])
def test_the_paper_s_network_computes_what_diffusers_computes(channels, size, seed, make, tmp_path):
    ours, theirs = make(channels, size, seed, tmp_path / "model")
    if channels == 3:
        assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) == 35_746_307
    g = torch.Generator().manual_seed(seed)
    for batch in (1, 3) if size == 32 else (1,):
        x, t = torch.randn(batch, channels, size, size, generator=g), torch.randint(1000, (batch,), generator=g)
        with torch.inference_mode():
            a, b = ours(x, t), theirs(x, t).sample
        assert 0.1 < a.std() < 10
        assert (a - b).abs().max() < 1e-5


def test_the_configuration_of_2022_is_the_paper_s():
    from ddpm_course.hub import unet_from_diffusers

    assert unet_from_diffusers(json.loads(json.dumps(GOOGLE))) == (UNetConfig(dropout=0.0), (3, 32, 32))


def test_the_saved_chapter_was_run_with_diffusers():
    text = (ROOT / "nbs" / "10_sharing_models.ipynb").read_text(encoding="utf-8")
    outputs = [o for c in json.loads(text)["cells"] for o in c.get("outputs", [])]
    printed = "".join("".join(o.get("text", [])) for o in outputs)
    assert "agree to 1e-5" in printed and "is not installed" not in printed


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
