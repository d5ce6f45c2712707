"""How a model lies on disk: its folder, its card, and the same model in the format of diffusers."""

