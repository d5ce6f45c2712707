"""Faults that users reported, in the formats of models."""
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from ddpm_course.ddim import ddim_sample
from ddpm_course.ddpm import ddpm_sample
from ddpm_course.hub import load_pretrained

OLD = Path(__file__).parent / "fixtures" / "old"  # written by the first version


def test_folders_of_the_first_version_load_and_draw_the_same_images():
    expected, y = load_file(OLD / "images.safetensors"), torch.tensor([0, 1, 0, 1])
    noise = [torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    for name in ("model", "run"):
        denoiser = load_pretrained(OLD / name)
        images = {"ddim": ddim_sample(denoiser, noise[0], steps=5, y=y, progress=False),
                  "ddpm": ddpm_sample(denoiser, noise[1], steps=5, y=y, seed=3, progress=False)}
        for sampler, found in images.items():
            assert_close(found, expected[f"{name}.{sampler}"], rtol=0, atol=1e-4)
            assert found.std() > 0.05, f"{name}, {sampler}: grey pictures would agree whatever drew them"
