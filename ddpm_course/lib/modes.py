"""The mode a network is in, training or not, changed for a while."""
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(model):
    "Within this context `model` is in eval mode (no dropout); afterwards it and each of its parts are as before."
    parts = model.modules() if isinstance(model, nn.Module) else [model]
    training = [part for part in parts if getattr(part, "training", False)]
    try:
        for part in training:
            part.eval()
        yield
    finally:
        for part in training:
            if isinstance(part, nn.Module):
                part.training = True  # train() would take its children along, also those that were in eval mode
            else:
                part.train()
