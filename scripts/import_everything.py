"""Imports every module of the installed package and every name it makes public; run it outside the repository."""
import importlib
import pkgutil

import ddpm_course

names = 0
for module in pkgutil.walk_packages(ddpm_course.__path__, "ddpm_course."):
    if module.name.rpartition(".")[2].startswith("_"):  # importing __main__ runs the program
        continue
    loaded = importlib.import_module(module.name)
    names += len([getattr(loaded, name) for name in getattr(loaded, "__all__", vars(loaded)) if name[0] != "_"])
print(f"ddpm_course {ddpm_course.__version__}: {names} public names import from {ddpm_course.__path__[0]}")
