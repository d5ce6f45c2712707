"""What is refused, with which exception and which words: the formats of models."""
import json
import pickle

import pytest
import torch
from safetensors.torch import load_file
from small_models import (GOOGLE, GOOGLE_SCHEDULER, IN_DIFFUSERS, MakesFolder, description, files_below, same_model,
                          small_denoiser, stand_in_for_the_hub)

from ddpm_course.formats.diffusers import (UNET_DEFAULTS, scheduler_from_diffusers, scheduler_to_diffusers,
                                           unet_from_diffusers, unet_to_diffusers)
from ddpm_course.formats.model_folder import build, describe
from ddpm_course.hub import from_diffusers, load_pretrained, save_pretrained, to_diffusers
from ddpm_course.lib.storage import tensors_to_bytes, write_folder
from ddpm_course.objective import Denoiser
from ddpm_course.schedules import make_schedule
from ddpm_course.unet import UNet, UNetConfig


def refused(call, kind, words):
    "`call` must raise `kind` with a message in which `words` occur."
    with pytest.raises(kind) as caught:
        call()
    assert words in str(caught.value), caught.value


def untouched(folder, name, content, words, write):
    "Put a file into `folder`, let `write` refuse the folder, and see that everything in it is still there."
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    old = files_below(folder)
    refused(lambda: write(small_denoiser(), folder), ValueError, words)
    assert files_below(folder) == old


def pickle_of(folder, size):
    "A pickle of about `size` bytes that makes `folder` where it is loaded, which is tried out here."
    content = pickle.dumps([MakesFolder(folder), bytes(size)])
    pickle.loads(content)
    folder.rmdir()
    return content


def test_model_folder():
    "What a config.json cannot say."
    for entry, value, words in [
            ("base_channels", "64", "base_channels is '64', expected a whole number from 1 to 1,000,000"),
            ("heads", 1.0, "heads is 1.0"), ("heads", True, "heads is True"), ("groups", 3, "groups = 3"),
            ("num_res_blocks", 10**9, "num_res_blocks is 1000000000, expected a whole number from 1 to 100"),
            ("dropout", None, "dropout is None, expected float"), ("dropout", "0.1", "dropout is '0.1'"),
            ("channel_mults", 2, "channel_mults is 2, expected a list"),
            ("channel_mults", [1, 2.5], "channel_mults is 2.5"), ("null_label", 1, "null_label is 1, expected bool"),
            ("num_classes", "3", "num_classes is '3'"), ("depth", 3, "config.json has a missing or unexpected entry"),
            ("depth", 3, "'depth'"), ("image_size", 7, "image_size is 7")]:
        refused(lambda: build(description(architecture={entry: value})), ValueError, words)
    for entry, value, words in [
            ("format", "ddpm_course model, version 99", "format is 'ddpm_course model, version 99', expected"),
            ("format", None, "format is None"), ("architecture", [1], "missing or unexpected"),
            ("shape", [1, 8], "shape is (1, 8)"), ("shape", [3, 8, 8], "expected (1, height, width)"),
            ("shape", [1, 8, 0], "shape is 0"), ("clip", [1, -1], "clip is [1, -1]"),
            ("clip", [0, float("nan")], "clip is [0, nan]"), ("clip", "ab", "missing or unexpected"),
            ("clip", [0, 10**400], "missing or unexpected"), ("prediction", "score", "prediction is 'score'"),
            ("schedule", 5, "missing or unexpected"), ("schedule", {"name": "magic"}, "schedule is 'magic'"),
            ("schedule", {"betas": [0.1, "x"]}, "missing or unexpected"),
            ("schedule", {"betas": [0.1, float("nan")]}, "NaN")] + [
            ("schedule", {"num_timesteps": T}, f"num_timesteps is {T!r}, expected a whole number from 1 to 100,000")
            for T in (0, 10**15, True, 100.0, "100")]:
        refused(lambda: build(description(**{entry: value})), ValueError, words)
    for entry in ("architecture", "schedule", "prediction", "shape", "clip"):
        plain = {k: v for k, v in description().items() if k != entry}
        refused(lambda: build(plain), ValueError, f"missing or unexpected entry: '{entry}'")
    stranger = Denoiser(torch.nn.Conv2d(1, 1, 1), make_schedule("cosine"), "v", shape=(1, 8, 8))
    refused(lambda: describe(stranger), ValueError, "the network is Conv2d in a Denoiser, expected the UNet")
    refused(lambda: describe(lambda x_t, t: x_t), ValueError, "the network is NoneType in a function")


def test_model_folder_writes_over_nothing_else(tmp_path):
    save_pretrained(small_denoiser(), tmp_path / "clone")
    for name, file, content, words in [
            ("thesis", "chapter1.tex", b"three years of work", "holds something else"),
            ("newer", "config.json", b'{"format": "ddpm_course model, version 2"}', "holds something else"),
            ("broken", "config.json", b'{"format": ', "not valid JSON"),
            ("clone", ".git/HEAD", b"ref: main", "holds '.git/HEAD', which is no part of the model")]:
        untouched(tmp_path / name, file, content, words, save_pretrained)
    file = tmp_path / "thesis" / "chapter1.tex"
    refused(lambda: save_pretrained(small_denoiser(), file), ValueError, "is a file, expected a folder")
    assert file.read_bytes() == b"three years of work"


def test_model_folder_saves_only_what_can_be_loaded(tmp_path):
    for value, options in ((torch.nan, {}), (70_000.0, {"half": True})):  # the second is more than float16 can say
        denoiser = small_denoiser()
        denoiser.model.conv_out.bias.data[0] = value
        refused(lambda: save_pretrained(denoiser, tmp_path / "new", **options), ValueError,
                "'conv_out.bias' holds NaN or infinite")
    assert not any(tmp_path.iterdir())


def test_model_folder_that_is_damaged(tmp_path):
    "The fingerprint is the old one."
    save_pretrained(small_denoiser(), tmp_path, half=True)
    whole = files_below(tmp_path)
    weights = whole["model.safetensors"]
    for name, content, words in [
            ("model.safetensors", weights[:-1], "SHA-256"), ("model.safetensors", weights + b"x", "SHA-256"),
            ("model.safetensors", weights[:500] + bytes([weights[500] ^ 1]) + weights[501:], "SHA-256"),
            ("model.safetensors", None, "is missing"), ("model.safetensors", b"", "has 0 bytes, expected"),
            ("model.safetensors", weights[:1000], "has 1,000 bytes, expected"),
            ("model.safetensors", weights + bytes(10**6), "numbers of the network"),
            ("config.json", b'{"format": ', "not valid JSON"), ("config.json", b"[]", "holds a list, expected a JSON"),
            ("config.json", b"{}", "format is None"), ("config.json", None, "expected a model folder")]:
        (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
        refused(lambda: load_pretrained(tmp_path), ValueError, words)
        (tmp_path / name).write_bytes(whole[name])
    assert load_pretrained(tmp_path)
    (tmp_path / "model.safetensors").replace(tmp_path / "pytorch_model.bin")
    refused(lambda: load_pretrained(tmp_path), ValueError, "'pytorch_model.bin' is a pickle, which may run code")
    for name in ("config.json", "pytorch_model.bin"):
        (tmp_path / name).unlink()
    refused(lambda: load_pretrained(tmp_path), ValueError, f"model is {str(tmp_path)!r}, expected a model folder")
    refused(lambda: load_pretrained("no-such-model"), ValueError, "model is 'no-such-model', expected a model folder")


def test_model_folder_that_is_forged(tmp_path):
    "Whoever changes a file on purpose writes the fingerprint to match; the other checks remain."
    state = small_denoiser().model.state_dict()
    bias = "conv_in.bias"

    def forged(content=None, **entries):
        content = tensors_to_bytes(state) if content is None else content
        write_folder(tmp_path / "forged", {"model.safetensors": content}, description(**entries))
        return load_pretrained(tmp_path / "forged")

    assert same_model(forged(), small_denoiser())  # what is right goes through
    for tensors, words in [({**state, bias: torch.zeros(9)}, f"{bias!r} has shape (9,), expected (8,)"),
                           ({k: v for k, v in state.items() if k != bias}, f"lacks 1 tensors, the first: {bias!r}"),
                           ({**state, "extra": torch.zeros(1)}, "has 1 tensors too many, the first: 'extra'"),
                           ({**state, bias: torch.zeros(8, dtype=torch.int8)}, f"{bias!r} is torch.int8"),
                           ({**state, bias: torch.full((8,), torch.nan)}, f"{bias!r} holds NaN")]:
        refused(lambda: forged(tensors_to_bytes(tensors)), ValueError, words)
    for entries, words in [({"base_channels": 16}, "has shape"), ({"base_channels": 1_000_000}, "bytes, expected"),
                           ({"base_channels": 1_000_000, "channel_mults": [1, 1_000_000]}, "no network can be built"),
                           ({"groups": 3}, "groups = 3")]:
        refused(lambda: forged(architecture=entries), ValueError, words)
    made = tmp_path / "made by a pickle"
    evil = pickle_of(made, size=2 * sum(w.numel() for w in state.values()))
    refused(lambda: forged(evil), ValueError, "not a valid safetensors file")
    assert not made.exists()


def test_hub_without_an_answer(monkeypatch):
    for answer, words in [(OSError("404"), "'somebody/tiny' is no folder here, and the hub does not give it: 404"),
                          (None, "for an id on the hub, pip install huggingface_hub")]:
        stand_in_for_the_hub(monkeypatch, answer)
        for load in (load_pretrained, from_diffusers):
            refused(lambda: load("somebody/tiny"), ValueError, words)


def on_meta(**options):
    "A denoiser without numbers, for questions about its configuration."
    small = {"image_size": 16, "image_channels": 1, "base_channels": 8, "channel_mults": (1, 2), "num_res_blocks": 1,
             "attention_resolutions": (8,), "groups": 4}
    with torch.device("meta"):
        network = UNet(UNetConfig(**small | options))
    return Denoiser(network, make_schedule("cosine", 10), "v", shape=(1, 16, 16))


def test_diffusers():
    "What diffusers cannot say of ours, and what ours cannot be of diffusers', by its key."
    for name, value, more in [("patch_size", 2, {}), ("self_conditioning", True, {}), ("channel_mults", (2, 4), {}),
                              ("heads", 2, {"attention_resolutions": (16, 8)})]:
        refused(lambda: unet_to_diffusers(on_meta(**{name: value}, **more)), ValueError,
                f"{name} is {value}, which diffusers' UNet2DModel cannot express")
    lopsided = Denoiser(None, make_schedule("cosine"), "v", shape=(1, 8, 8), clip=(0, 1))
    refused(lambda: scheduler_to_diffusers(lopsided), ValueError, "clip is (0, 1), which diffusers cannot express")

    wrong = {
        "act_fn": "gelu", "add_attention": False, "attn_norm_num_groups": 16, "center_input_sample": True,
        "class_embed_type": "timestep", "downsample_padding": 1, "downsample_type": "resnet", "flip_sin_to_cos": True,
        "freq_shift": 0, "mid_block_scale_factor": 2, "mid_block_type": None, "norm_eps": 1e-5,
        "resnet_time_scale_shift": "scale_shift", "time_embedding_dim": 256, "time_embedding_type": "fourier",
        "upsample_type": "resnet", "_class_name": "UNet2DConditionModel", "cross_attention_dim": 768,
        "attention_head_dim": 100, "sample_size": 30, "in_channels": "3", "out_channels": 6, "layers_per_block": 0,
        "norm_num_groups": None, "num_class_embeds": 0, "block_out_channels": [128, 192, 256, 256],
        "down_block_types": ["SkipDownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"]}
    assert set(UNET_DEFAULTS) - set(wrong) == {"dropout", "num_train_timesteps"}  # every other key can be wrong
    for key, value in wrong.items():
        refused(lambda: unet_from_diffusers(GOOGLE | {key: value}), ValueError, f"config.json: {key} is")
    for key in ("norm_eps", "downsample_padding", "flip_sin_to_cos", "freq_shift", "sample_size"):
        without = {k: v for k, v in GOOGLE.items() if k != key}  # left out, it means something else
        refused(lambda: unet_from_diffusers(without), ValueError, f"config.json: {key} is")
        unset = GOOGLE | {"_use_default_values": [key]}
        refused(lambda: unet_from_diffusers(unset), ValueError, f"config.json: {key} is")
    three_levels = {k: v for k, v in GOOGLE.items() if k != "attention_head_dim"} | {
        "block_out_channels": [64, 128, 256], "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"]}
    refused(lambda: unet_from_diffusers(three_levels), ValueError, "attention_head_dim is 8")
    for change, words in [
            ({"attention_head_dim": 64, "block_out_channels": [128, 128, 256, 256]}, "attention_head_dim is 64"),
            ({"attention_head_dim": 8.0}, "config.json: attention_head_dim is 8.0"),
            ({"block_out_channels": 128}, "config.json holds a value of the wrong type"),
            ({"down_block_types": [[]] * 4}, "config.json holds a value of the wrong type"),
            ({"_use_default_values": 7}, "config.json holds a value of the wrong type"),
            ({"up_block_types": ["UpBlock2D"]}, "up_block_types is ['UpBlock2D']"),
            ({"sample_size": [32]}, "sample_size is [32]"), ({"dropout": "0.1"}, "dropout is '0.1', expected float")]:
        refused(lambda: unet_from_diffusers(GOOGLE | change), ValueError, words)

    for key, value in {"_class_name": "PNDMScheduler", "beta_schedule": "sigmoid", "prediction_type": "flow",
                       "thresholding": True, "variance_type": "learned_range", "future": 1, "clip_sample": "yes",
                       "num_train_timesteps": 10**12, "trained_betas": [0.1, 0.2], "clip_sample_range": -1}.items():
        refused(lambda: scheduler_from_diffusers(GOOGLE_SCHEDULER | {key: value}), ValueError,
                f"scheduler_config.json: {key} is {value!r}, expected")
    for key, value, words in [("beta_start", "x", "holds a value of the wrong type"),
                              ("clip_sample_range", None, "holds a value of the wrong type"),
                              ("beta_schedule", [], "holds a value of the wrong type"),
                              ("trained_betas", ["x"], "'str'")]:
        refused(lambda: scheduler_from_diffusers(GOOGLE_SCHEDULER | {key: value}), ValueError, words)


def test_diffusers_writes_over_nothing_else(tmp_path):
    to_diffusers(small_denoiser(), tmp_path / "mine")
    for name, file, content, words in [
            ("thesis", "chapter1.tex", b"three years of work", "holds something else"),
            ("mine", "unet/notes.txt", b"important", "holds 'unet/notes.txt', which is no part of the model"),
            ("somebody's", "model_index.json", b'{"_class_name": "DDPMPipeline"}', "holds something else")]:
        untouched(tmp_path / name, file, content, words, to_diffusers)
    diverged = small_denoiser()
    diverged.model.conv_out.bias.data[0] = torch.nan
    refused(lambda: to_diffusers(diverged, tmp_path / "new"), ValueError, "'conv_out.bias' holds NaN")
    refused(lambda: to_diffusers(load_pretrained("digits"), tmp_path / "new"), ValueError,
            "patch_size is 2, which diffusers' UNet2DModel cannot express")
    assert not (tmp_path / "new").exists()


def test_diffusers_folder_that_is_wrong(tmp_path):
    "Each with its file, and with the key or the tensor."
    folder, made = tmp_path / "abroad", tmp_path / "made by a pickle"
    to_diffusers(small_denoiser(), folder)
    whole, tensors = files_below(folder), load_file(folder / IN_DIFFUSERS["weights"])
    good, size = whole[IN_DIFFUSERS["weights"]], sum(w.numel() for w in tensors.values())
    query = "down_blocks.1.attentions.0.to_q.weight"
    old_query = query.replace("to_q", "query")
    for file, content, words in [
            ("weights", pickle_of(made, 2 * size), "not a valid safetensors file"),
            ("weights", good[:-1], "not a valid safetensors file"),
            ("weights", good[:900], "has 900 bytes"),
            ("weights", good + bytes(10**6), "bytes, expected"),
            ("weights", None, "is missing"),
            ("weights", {query: torch.full((16, 16), torch.inf)}, f"{query!r} holds NaN or infinite"),
            ("weights", {query: torch.zeros(16, 15)}, f"{query!r} has shape (16, 15), expected (16, 16)"),
            ("weights", {query: torch.ones(16, 16).int()}, f"{query!r} is torch.int32"),
            ("weights", {query: None}, f"lacks 1 tensors, the first: {query!r}"),
            ("weights", {"x": torch.zeros(1)}, "has 1 tensors too many, the first: 'x'"),
            ("weights", {old_query: tensors[query].clone()}, "under its old and its new name"),
            ("unet", {"norm_eps": 1e-5}, "norm_eps is 1e-05"),
            ("unet", {"block_out_channels": [8, 24]}, "has shape"),
            ("unet", {"block_out_channels": [8, 800_000]}, "bytes, expected"),
            ("unet", b"{", "not valid JSON"),
            ("unet", None, "does not exist"),
            ("scheduler", {"trained_betas": [0.1]}, "trained_betas is [0.1], expected num_train_timesteps = 100"),
            ("scheduler", None, "does not exist"),
            ("index", {"_class_name": "StableDiffusionPipeline"}, "_class_name is 'StableDiffusionPipeline'")]:
        path = folder / IN_DIFFUSERS[file]
        if isinstance(content, dict) and file == "weights":
            content = tensors_to_bytes({name: w for name, w in (tensors | content).items() if w is not None})
        elif isinstance(content, dict):
            content = json.dumps(json.loads(path.read_text()) | content).encode()
        path.unlink() if content is None else path.write_bytes(content)
        refused(lambda: from_diffusers(folder), ValueError, words)
        refused(lambda: from_diffusers(folder), ValueError, folder.name)
        path.write_bytes(whole[IN_DIFFUSERS[file]])
    assert same_model(from_diffusers(folder), small_denoiser())
    (folder / IN_DIFFUSERS["weights"]).unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle_of(made, 2 * size))
    refused(lambda: from_diffusers(folder), ValueError, "'diffusion_pytorch_model.bin' is a pickle, which may run code")
    assert not made.exists()
    refused(lambda: from_diffusers(tmp_path / "nowhere"), ValueError, "nowhere', expected the folder of a pipeline")
