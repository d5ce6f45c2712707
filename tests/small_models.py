"""What the tests of the formats share: small models, published configurations, old folders, a hub without a network."""
import json
import os
import re
import sys
import types

import torch
from safetensors.torch import load_file

from ddpm_course.formats.model_folder import describe
from ddpm_course.hub import to_diffusers
from ddpm_course.lib.storage import tensors_to_bytes
from ddpm_course.objective import Denoiser
from ddpm_course.schedules import make_schedule
from ddpm_course.unet import UNet, UNetConfig

SMALL = UNetConfig(8, 1, 8, (1, 2), 1, (4,), groups=4, dropout=0.0, num_classes=3)
GOOGLE = {  # the config.json of google/ddpm-cifar10-32, of 2022
    "_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "act_fn": "silu", "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256], "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"], "downsample_padding": 0,
    "flip_sin_to_cos": False, "freq_shift": 1, "in_channels": 3, "layers_per_block": 2, "mid_block_scale_factor": 1,
    "norm_eps": 1e-06, "norm_num_groups": 32, "out_channels": 3, "sample_size": 32, "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"]}
GOOGLE_SCHEDULER = {  # its scheduler_config.json
    "_class_name": "DDPMScheduler", "_diffusers_version": "0.1.1", "beta_end": 0.02, "beta_schedule": "linear",
    "beta_start": 0.0001, "clip_sample": True, "num_train_timesteps": 1000, "trained_betas": None,
    "variance_type": "fixed_large", "tensor_format": "pt", "timestep_values": None}
IN_DIFFUSERS = {  # the files of a pipeline's folder
    "index": "model_index.json", "unet": "unet/config.json", "scheduler": "scheduler/scheduler_config.json",
    "weights": "unet/diffusion_pytorch_model.safetensors", "card": "README.md"}


def random_everywhere(model, seed=0, size=0.05):
    "Moves every weight from its start: layers that begin at zero would hide what comes before them."
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(size * torch.randn(p.shape, generator=g))
    return model.eval()


def small_denoiser(seed=0, config=SMALL, schedule=None, prediction="v", **options):
    "A denoiser of 45,097 weights, laid out in memory as training leaves it."
    torch.manual_seed(seed)
    network = random_everywhere(UNet(config), seed).to(memory_format=torch.channels_last)
    options = {"shape": (config.image_channels, config.image_size, config.image_size)} | options
    return Denoiser(network, schedule or make_schedule("cosine", 100), prediction, **options).eval()


def questions(denoiser, seed=0):
    "Arguments for a denoiser: two images, two levels and, where the network knows labels, two of them."
    g, classes = torch.Generator().manual_seed(seed), denoiser.model.config.num_classes
    x = torch.randn(2, *denoiser.shape, generator=g)
    return x, torch.tensor([1, denoiser.schedule.num_timesteps - 1]), classes and torch.tensor([0, classes - 1])


def same_model(a, b):
    "Equal descriptions, and weights that are equal to the bit."
    x, y = a.model.state_dict(), b.model.state_dict()
    return describe(a) == describe(b) and x.keys() == y.keys() and all(torch.equal(x[n], y[n]) for n in x)


def description(**entries):
    "The description of `small_denoiser()` as JSON with some entries replaced; a dictionary changes entries inside."
    plain = json.loads(json.dumps(describe(small_denoiser())))
    return plain | {k: plain[k] | v if isinstance(v, dict) else v for k, v in entries.items()}


def files_below(folder):
    "The bytes of every file in a folder, by its path."
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class MakesFolder:
    "An object whose pickle, when it is loaded, makes a folder."
    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def layout_of_2022(denoiser, folder):
    "Write the folder that the diffusers of 2022 wrote: all at the root, few keys, attention under its old names."
    to_diffusers(denoiser, folder)
    config = json.loads((folder / IN_DIFFUSERS["unet"]).read_text())
    tensors = load_file(folder / IN_DIFFUSERS["weights"])
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {re.sub(r"to_[qkv]|to_out\.0", lambda m: old[m[0]], name): w for name, w in tensors.items()}
    (folder / IN_DIFFUSERS["scheduler"]).replace(folder / "scheduler_config.json")
    for name in ("unet", "weights", "card"):
        (folder / IN_DIFFUSERS[name]).unlink()
    (folder / "unet").rmdir(), (folder / "scheduler").rmdir()
    keys = {*GOOGLE, "num_class_embeds", "_null_label"}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k in keys}))
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(tensors_to_bytes(renamed))
    return renamed


def stand_in_for_the_hub(monkeypatch, answer):
    """
    Replaces `huggingface_hub`, and returns the list of what it will have been asked for.

    It "downloads" the folder `answer`, raises it where it is an exception, and is not installed where it is None.
    """
    asked = []

    def snapshot_download(name, **options):
        asked.append((name, options))
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    stand_in = answer and types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in)
    return asked
