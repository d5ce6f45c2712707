"""The same network in the language of diffusers: names, weights, and both configurations, key by key."""
import json
import math
import re
from pathlib import Path

import torch
from torch import Tensor

from ..forward import NoiseSchedule
from ..lib.arguments import check_choice, check_number
from ..lib.storage import check_tensors, read_json, sha256, tensors_from_bytes, tensors_to_bytes, write_folder
from ..objective import Denoiser
from ..schedules import cosine_beta_schedule, rescale_zero_terminal_snr
from ..unet import UNet, UNetConfig
from .hugging_face import fetch_from_hub, is_hub_id
from .model_card import model_card, plain, plain_facts
from .model_folder import (CARD, MOST, blank_network, card_or_own_words, check_classes, check_file_size, check_target,
                           count_parameters, describe, fill_network, network_of, read_architecture, read_description,
                           title_of)

RENAMED = (  # our names (regular expressions) and what diffusers writes there
    (r"^(down|up)\.(\d+)\.(\d+)\.res\.", r"\1_blocks.\2.resnets.\3."),
    (r"^(down|up)\.(\d+)\.(\d+)\.attention\.", r"\1_blocks.\2.attentions.\3."),
    (r"^(down|up)\.(\d+)\.\d+\.conv\.", r"\1_blocks.\2.\1samplers.0.conv."),
    (r"^mid\.(\d)\.res\.", r"mid_block.resnets.\1."),
    (r"^mid\.0\.attention\.", r"mid_block.attentions.0."),
    (r"\.time_proj\.", r".time_emb_proj."),
    (r"\.shortcut\.", r".conv_shortcut."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.out\.", r"\1.to_out.0."),
    (r"^norm_out\.", r"conv_norm_out."),
    (r"^label_embedding\.", r"class_embedding."),
)

OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def diffusers_names(name: str) -> list[str]:
    "What diffusers calls a tensor of our UNet: one name, or three for the joint layer of query, key and value."
    for ours, theirs in RENAMED:
        name = re.sub(ours, theirs, name)
    return [name.replace(".qkv.", f".to_{part}.") for part in "qkv"] if ".qkv." in name else [name]


def _their_weights(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    "Our tensors under diffusers' names; query, key and value cut apart."
    return {theirs: part.clone() for name, tensor in ours.items() for names in [diffusers_names(name)]
            for theirs, part in zip(names, tensor.chunk(len(names)))}


def _our_weights(theirs: dict[str, Tensor], model: UNet, source: str) -> dict[str, Tensor]:
    "The tensors of a file of diffusers under our names, after every check that can be made."
    found = {re.sub(r"\.(query|key|value|proj_attn)\.", lambda m: f".{OLD_NAMES[m[1]]}.", name): tensor
             for name, tensor in theirs.items()}
    if len(found) < len(theirs):
        raise ValueError(f"{source} holds an attention layer under its old and its new name, expected one of them")
    check_tensors(found, _their_weights(model.state_dict()), source)
    return {name: torch.cat([found[n] for n in diffusers_names(name)]) for name in model.state_dict()}


UNET_ALWAYS = {  # what the UNet of chapter 07 always is, in the words of diffusers
    "act_fn": "silu", "add_attention": True, "attn_norm_num_groups": None, "center_input_sample": False,
    "class_embed_type": None, "downsample_padding": 0, "downsample_type": "conv", "flip_sin_to_cos": False,
    "freq_shift": 1, "mid_block_scale_factor": 1, "mid_block_type": "UNetMidBlock2D", "norm_eps": 1e-6,
    "num_train_timesteps": None, "resnet_time_scale_shift": "default", "time_embedding_dim": None,
    "time_embedding_type": "positional", "upsample_type": "conv"}

UNET_DEFAULTS = UNET_ALWAYS | {  # what a key means to diffusers that is not there
    "attention_head_dim": 8, "block_out_channels": [224, 448, 672, 896],
    "down_block_types": ["DownBlock2D"] + 3 * ["AttnDownBlock2D"], "downsample_padding": 1, "dropout": 0.0,
    "flip_sin_to_cos": True, "freq_shift": 0, "in_channels": 3, "layers_per_block": 2, "norm_eps": 1e-5,
    "norm_num_groups": 32, "num_class_embeds": None, "out_channels": 3, "sample_size": None,
    "up_block_types": 3 * ["AttnUpBlock2D"] + ["UpBlock2D"]}


def _attended(c: UNetConfig) -> set[int]:
    "The widths at which the network has attention; the middle always has."
    widths = [c.base_channels * m for m in c.channel_mults]
    return {w for w, r in zip(widths, c.resolutions) if r in c.attention_resolutions} | {widths[-1]}


def _check_expressible(c: UNetConfig) -> None:
    for name, refused, expected in (
            ("patch_size", c.patch_size > 1, "1; fold the images instead, with F.pixel_unshuffle"),
            ("self_conditioning", c.self_conditioning, "False"),
            ("channel_mults", c.channel_mults[0] > 1, "a 1 first"),
            ("heads", c.heads > 1 and len(_attended(c)) > 1, "1, as levels with attention differ in width")):
        if refused:
            raise ValueError(f"{name} is {getattr(c, name)}, which diffusers' UNet2DModel cannot express; "
                             f"expected {expected}")


DIFFUSERS_VERSION = "0.32.0"  # whose format is written


def unet_to_diffusers(denoiser: Denoiser) -> dict:
    "The network as the config.json of diffusers' `UNet2DModel`. `ValueError`, by name, for what that cannot express."
    c, (_, height, width) = network_of(denoiser).config, plain("shape", denoiser.shape)
    _check_expressible(c)
    kinds = ["Attn" * (resolution in c.attention_resolutions) for resolution in c.resolutions]
    private = {} if c.num_classes is None else {"_null_label": c.null_label}  # diffusers passes over such notes
    if denoiser.classes is not None:
        private["_classes"] = plain("classes", denoiser.classes)
    return {"_class_name": "UNet2DModel", "_diffusers_version": DIFFUSERS_VERSION, **private, **UNET_ALWAYS,
            "attention_head_dim": None if c.heads == 1 else max(_attended(c)) // c.heads,
            "block_out_channels": [c.base_channels * m for m in c.channel_mults],
            "down_block_types": [f"{kind}DownBlock2D" for kind in kinds], "dropout": c.dropout,
            "in_channels": c.image_channels, "layers_per_block": c.num_res_blocks, "norm_num_groups": c.groups,
            "num_class_embeds": c.num_classes and c.num_classes + c.null_label, "out_channels": c.image_channels,
            "sample_size": height if height == width else [height, width],
            "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)]}


class _Foreign(dict):
    "A configuration that diffusers wrote, with the defaults filled in, and a way to refuse one of its keys."
    def __init__(self, found: dict, defaults: dict, source: str, ignored=()):
        unset = found.get("_use_default_values", ())
        super().__init__(defaults | {k: v for k, v in found.items() if k not in unset})
        self.source = source
        for key in self.keys() - defaults.keys() - set(ignored):
            if not key.startswith("_") and self[key] is not None:
                self.refuse(key, "no such key: this version of the course does not know it")

    def refuse(self, key: str, expected: str):
        raise ValueError(f"{self.source}: {key} is {self.get(key)!r:.80}, expected {expected}")

    def whole(self, key: str, high: int = MOST) -> int:
        return self.each_whole(key, [self[key]], high)[0]

    def each_whole(self, key: str, values, high: int = MOST) -> list[int]:
        return [check_number(f"{self.source}: {key}", value, 1, high, whole=True) for value in values]


def _check_always(c: _Foreign) -> None:
    "Refuse what our network is not; the few other ways to say the same are let through."
    same = {"act_fn": "swish", "attn_norm_num_groups": c["norm_num_groups"],
            "num_train_timesteps": c["num_train_timesteps"], "time_embedding_dim": 4 * c["block_out_channels"][0]}
    if c.get("_class_name", "UNet2DModel") != "UNet2DModel":
        c.refuse("_class_name", "'UNet2DModel'")
    for key, value in UNET_ALWAYS.items():
        if c[key] != value and c[key] != same.get(key, value):
            c.refuse(key, f"{value!r}, which is what the UNet of this course computes")


def _read_levels(c: _Foreign) -> tuple[list[int], list[bool]]:
    "The multiples of the first width, and which levels have attention."
    down, up, widths = c["down_block_types"], c["up_block_types"], c["block_out_channels"]
    names = [{f"{a}{arm}Block2D": bool(a) for a in ("", "Attn")} for arm in ("Down", "Up")]
    for key, blocks, known in (("down_block_types", down, names[0]), ("up_block_types", up, names[1])):
        if len(blocks) != len(widths) or any(block not in known for block in blocks):
            c.refuse(key, f"one of {list(known)} for each of {len(widths)} levels")
    attention = [names[0][block] for block in down]
    if [names[1][block] for block in reversed(up)] != attention:
        c.refuse("up_block_types", "attention at the same levels as in down_block_types")
    base, *_ = widths = c.each_whole("block_out_channels", widths)
    if any(width % base for width in widths):
        c.refuse("block_out_channels", "multiples of the first")
    return [width // base for width in widths], attention


def _read_heads(c: _Foreign, widths: set[int]) -> int:
    "The number of heads, where it is the same at all `widths` that have attention."
    if c["attention_head_dim"] is None:
        return 1
    size = c.whole("attention_head_dim")
    if any(w % size for w in widths) or len({w // size for w in widths}) > 1:
        c.refuse("attention_head_dim", f"null, or what gives one whole number of heads at widths {sorted(widths)}")
    return max(widths) // size


def _read_shape(c: _Foreign, levels: int) -> tuple[int, int, int]:
    "The shape (C, H, W) of the images, which must allow `levels - 1` halvings."
    given = c["sample_size"] if isinstance(c["sample_size"], (list, tuple)) else [c["sample_size"]] * 2
    sides = c.each_whole("sample_size", given)
    if len(sides) != 2 or any(side % 2 ** (levels - 1) for side in sides):
        c.refuse("sample_size", f"one or two sides that can be halved {levels - 1} times")
    if c.whole("in_channels") != c["out_channels"]:
        c.refuse("out_channels", "as many as in_channels: a learned variance is not known here")
    return (c["in_channels"], *sides)


def unet_from_diffusers(config: dict, source: str = "config.json") -> tuple[UNetConfig, tuple[int, int, int]]:
    """
    The network that a config.json of diffusers' `UNet2DModel` describes, and the shape (C, H, W) of its images.

    Where a key is missing, its default in diffusers counts. With labels, all of `num_class_embeds` are classes unless
    the folder says, as those of `write_pipeline` do, that the last means "no label". `ValueError` naming the first key
    that our UNet cannot represent.
    """
    try:
        c = _Foreign(config, UNET_DEFAULTS, source)
        _check_always(c)
        mults, attention = _read_levels(c)
        shape, base = _read_shape(c, len(mults)), c["block_out_channels"][0]
        heads = _read_heads(c, {base * m for m, attends in zip(mults, attention) if attends} | {base * mults[-1]})
        null = c.get("_null_label", c["num_class_embeds"] is None) is True
        return read_architecture({
            "image_size": shape[1], "image_channels": shape[0], "base_channels": base, "channel_mults": mults,
            "num_res_blocks": c.whole("layers_per_block"), "heads": heads, "dropout": c["dropout"], "null_label": null,
            "attention_resolutions": [shape[1] >> i for i, attends in enumerate(attention) if attends],
            "groups": c.whole("norm_num_groups"),
            "num_classes": None if c["num_class_embeds"] is None else c.whole("num_class_embeds") - null}), shape
    except (TypeError, LookupError, ArithmeticError) as error:
        raise ValueError(f"{source} holds a value of the wrong type: {error}") from error


PREDICTION_TYPES = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}

VARIANCE_TYPES = {"fixed_small": "small", "fixed_small_log": "small", "fixed_large": "large"}

SCHEDULER_DEFAULTS = {
    "beta_end": 0.02, "beta_schedule": "linear", "beta_start": 1e-4, "clip_sample": True, "clip_sample_range": 1.0,
    "num_train_timesteps": 1000, "prediction_type": "epsilon", "rescale_betas_zero_snr": False, "thresholding": False,
    "trained_betas": None, "variance_type": "fixed_small"}

HOW_TO_SAMPLE = ("dynamic_thresholding_ratio", "sample_max_value", "set_alpha_to_one", "steps_offset", "tensor_format",
                 "timestep_spacing")


def scheduler_to_diffusers(denoiser: Denoiser) -> dict:
    "Noise levels, prediction, clipping and variance as the configuration of diffusers' `DDPMScheduler`."
    betas, clip = denoiser.schedule.exact_betas, plain("clip", denoiser.clip)
    if clip is not None and clip[0] != -clip[1]:
        raise ValueError(f"clip is {tuple(clip)}, which diffusers cannot express; expected None or a range around 0")
    named = torch.equal(betas, torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
    return {"_class_name": "DDPMScheduler", "_diffusers_version": DIFFUSERS_VERSION, **SCHEDULER_DEFAULTS,
            "clip_sample": clip is not None, "clip_sample_range": clip[1] if clip else 1.0,
            "num_train_timesteps": len(betas), "prediction_type": PREDICTION_TYPES[denoiser.prediction],
            "steps_offset": 0, "timestep_spacing": "trailing", "trained_betas": None if named else betas.tolist(),
            "variance_type": f"fixed_{denoiser.variance}"}


def _read_betas(c: _Foreign) -> Tensor:
    "The betas a scheduler would compute, in float64."
    T, start, end = c.whole("num_train_timesteps", 100_000), c["beta_start"], c["beta_end"]
    line = lambda a, b: torch.linspace(a, b, T, dtype=torch.float64)  # not rescaled for T, as theirs
    curves = {"linear": lambda: line(start, end), "scaled_linear": lambda: line(start**0.5, end**0.5) ** 2,
              "squaredcos_cap_v2": lambda: cosine_beta_schedule(T)}
    if c["trained_betas"] is not None:
        betas = torch.tensor(c["trained_betas"], dtype=torch.float64)
        if betas.shape != (T,):
            c.refuse("trained_betas", f"num_train_timesteps = {T} numbers")
    elif c["beta_schedule"] in curves:
        betas = curves[c["beta_schedule"]]()
    else:
        c.refuse("beta_schedule", f"one of {list(curves)}, or trained_betas")
    return rescale_zero_terminal_snr(betas) if c["rescale_betas_zero_snr"] else betas


def _check_scheduler(c: _Foreign) -> None:
    "Refuse what says something about the model that a `Denoiser` cannot say."
    for key, known in {"_class_name": ("DDPMScheduler", "DDIMScheduler"), "clip_sample": (True, False),
                       "prediction_type": PREDICTION_TYPES.values(), "rescale_betas_zero_snr": (True, False),
                       "thresholding": (False,), "variance_type": VARIANCE_TYPES}.items():
        check_choice(f"{c.source}: {key}", c.get(key), known)
    if not 0 < c["clip_sample_range"] < math.inf:
        c.refuse("clip_sample_range", "a number above 0")


def scheduler_from_diffusers(config: dict, source: str = "scheduler_config.json") -> dict:
    "What a `DDPMScheduler` or `DDIMScheduler` says: `schedule`, `prediction`, `clip` and `variance` of a Denoiser."
    try:
        c = _Foreign(config, SCHEDULER_DEFAULTS, source, HOW_TO_SAMPLE)
        _check_scheduler(c)
        high, ours = float(c["clip_sample_range"]), {theirs: name for name, theirs in PREDICTION_TYPES.items()}
        return {"schedule": NoiseSchedule(_read_betas(c)), "prediction": ours[c["prediction_type"]],
                "clip": (-high, high) if c["clip_sample"] else None, "variance": VARIANCE_TYPES[c["variance_type"]]}
    except (TypeError, RuntimeError, ArithmeticError) as error:
        raise ValueError(f"{source} holds a value of the wrong type: {error}") from error


DIFFUSERS_FORMAT = "written by ddpm_course for diffusers, version 1"

_UNET, _SCHEDULER, _TENSORS = "config.json", "scheduler_config.json", "diffusion_pytorch_model.safetensors"

_FILES = ("model_index.json", f"unet/{_UNET}", f"scheduler/{_SCHEDULER}", f"unet/{_TENSORS}", CARD)

_CODE_DIFFUSERS = """from diffusers import DDIMPipeline

pipeline = DDIMPipeline.from_pretrained({name})
images = pipeline(batch_size=16, num_inference_steps=50, use_clipped_model_output=True).images"""

_CODE_LABELS = """from diffusers import DDIMScheduler, UNet2DModel

unet = UNet2DModel.from_pretrained({name}, subfolder="unet")
scheduler = DDIMScheduler.from_pretrained({name}, subfolder="scheduler")
# The pipelines pass no labels: call unet(x, t, class_labels=y) in a loop of your own."""


def write_pipeline(denoiser: Denoiser, folder: str | Path, *, facts: dict | None = None) -> None:
    "Write the folder of a pipeline as `to_diffusers` says."
    folder, facts, model, about = Path(folder), plain_facts(facts), network_of(denoiser), describe(denoiser)
    old = check_target(folder, "model_index.json", lambda about: about.get("_ddpm_course") == DIFFUSERS_FORMAT, _FILES)
    weights = model.state_dict()
    read_description(about)  # what could not be loaded is not saved
    check_tensors(weights, weights, "the model")
    unet, scheduler = unet_to_diffusers(denoiser), scheduler_to_diffusers(denoiser)
    code = _CODE_DIFFUSERS if model.config.num_classes is None else _CODE_LABELS
    card = model_card(about, count_parameters(model), title_of(folder), facts, library="diffusers", code=code).encode()
    index = {"_class_name": "DDPMPipeline", "_diffusers_version": DIFFUSERS_VERSION, "_ddpm_course": DIFFUSERS_FORMAT,
             "_card": sha256(card), "scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}
    content = [json.dumps(document, indent=2).encode() for document in (index, unet, scheduler)]
    content += [tensors_to_bytes(_their_weights(weights), {"format": "pt"}),
                card_or_own_words(folder, card, old.get("_card"))]
    write_folder(folder, dict(zip(_FILES, content)), None)


def _pipeline(folder: Path) -> tuple[Path, Path]:
    "The folders of network and scheduler in that of a pipeline: below it, or in the layout of 2022 the same."
    if not folder.is_dir():
        raise ValueError(f"model is {str(folder)!r}, expected the folder of a pipeline, or an id on the hub")
    index = folder / "model_index.json"
    kind = read_json(index).get("_class_name") if index.is_file() else None
    if kind not in ("DDPMPipeline", "DDIMPipeline", None):
        raise ValueError(f"{index}: _class_name is {kind!r:.80}, expected 'DDPMPipeline' or 'DDIMPipeline'")
    unet, scheduler = folder / "unet", folder / "scheduler"
    return unet if unet.is_dir() else folder, scheduler if scheduler.is_dir() else folder


def read_pipeline(folder: str | Path, *, device="cpu", revision: str | None = None) -> Denoiser:
    "The model in the folder of a pipeline, or in one on the hub, as `from_diffusers` says."
    if is_hub_id(folder):
        folder = fetch_from_hub(str(folder), [*_FILES[:4], _UNET, _TENSORS, _SCHEDULER], revision)
    unet, scheduler = _pipeline(Path(folder))
    about = read_json(unet / _UNET)
    architecture, shape = unet_from_diffusers(about, str(unet / _UNET))
    classes = check_classes(about.get("_classes"), architecture.num_classes)
    others = scheduler_from_diffusers(read_json(scheduler / _SCHEDULER), str(scheduler / _SCHEDULER))
    model, source = blank_network(architecture), unet / _TENSORS
    check_file_size(source, model)
    weights = _our_weights(tensors_from_bytes(source.read_bytes(), str(source)), model, str(source))
    return Denoiser(fill_network(model, weights, str(source)), shape=shape, classes=classes, **others).eval().to(device)
