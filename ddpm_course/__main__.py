"""So that `python -m ddpm_course` is the program `ddpm_course`, which is written in nbs/appendix/cli.ipynb."""
import sys

from ddpm_course.cli import main

sys.exit(main())
