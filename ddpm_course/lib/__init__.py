"""What the chapters stand on: arguments, images in files, storage, pictures, the ledger. Knows nothing of diffusion."""

