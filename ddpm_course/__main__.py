"""So that `python -m ddpm_course` is the program `ddpm_course`, which is written in app/cli.py."""
import sys

from ddpm_course.app.cli import main

sys.exit(main())
