"""Imports every module of the installed package and every name it makes public; run it outside the repository."""
import importlib
import pkgutil

import ddpm_course

names = 0
for module in pkgutil.iter_modules(ddpm_course.__path__):
    if module.name.startswith("_"):
        continue
    loaded = importlib.import_module(f"ddpm_course.{module.name}")
    names += len([getattr(loaded, name) for name in loaded.__all__])
print(f"ddpm_course {ddpm_course.__version__}: {names} public names import from {ddpm_course.__path__[0]}")
