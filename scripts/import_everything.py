"""Imports every module of the installed package and every name it makes public; run it outside the repository.

The names of the package itself are asked for before the modules that hold them are loaded, and again after: neither
order may give something else.
"""
import importlib
import pkgutil
import sys


def modules(package) -> list:
    found = [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
    # importing __main__ runs the program
    return [importlib.import_module(name) for name in found if not name.rpartition(".")[2].startswith("_")]


def start_again():
    for name in [name for name in sys.modules if name.partition(".")[0] == "ddpm_course"]:
        del sys.modules[name]
    return importlib.import_module("ddpm_course")


def names_of(package) -> dict:
    return {name: (type(value), value.__name__) for name in package.__all__ for value in [getattr(package, name)]}


def main() -> None:
    package = start_again()
    first = names_of(package)
    loaded = modules(package)
    assert names_of(package) == first, "a module took the place of a public name"
    inside = sum(len([getattr(module, name) for name in getattr(module, "__all__", [])]) for module in loaded)

    package = start_again()
    modules(package)
    assert names_of(package) == first, "the public names differ when the modules are loaded first"
    print(f"ddpm_course {package.__version__}: {len(first)} public names and {inside} of the chapters import from "
          f"{package.__path__[0]}")


if __name__ == "__main__":
    main()
