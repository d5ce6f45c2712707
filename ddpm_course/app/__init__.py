"""What a person runs: a training run that survives the night, and the program."""

