"""The one public door: the names that people type, which load PyTorch when first used."""
import ast
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ddpm_course

ROOT = Path(__file__).parent.parent
NAMES = ["Denoiser", "NoiseSchedule", "TrainConfig", "UNet", "UNetConfig", "check", "ddim_sample", "ddpm_sample",
         "dpmpp_sample", "load_pretrained", "save_pretrained", "show_images", "train", "with_guidance"]


def fresh(code: str, **env) -> str:
    "What a new Python process prints, in an environment without the variables that a test run sets."
    plain = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "EAGER_IMPORT")}
    run = subprocess.run([sys.executable, "-c", code], env=plain | env, capture_output=True, text=True, check=True)
    return run.stdout.strip()


def test_the_door_offers_these_names_and_an_editor_completes_them():
    assert sorted(ddpm_course.__all__) == dir(ddpm_course) == NAMES


def test_torch_is_loaded_only_when_a_name_is_used():
    loaded = "print('torch' in sys.modules)"
    assert fresh(f"import ddpm_course, sys; {loaded}; ddpm_course.NoiseSchedule; {loaded}").split() == ["False", "True"]


def test_no_public_name_is_also_a_module_of_the_package_but_the_one_that_is_meant():
    assert set(NAMES) & {m.name for m in pkgutil.iter_modules(ddpm_course.__path__)} == {"check"}


def test_every_name_is_the_same_whether_its_module_was_loaded_before_or_after_it():
    run = subprocess.run([sys.executable, ROOT / "scripts" / "import_everything.py"], capture_output=True, text=True)
    assert run.returncode == 0 and f"{len(NAMES)} public names" in run.stdout, run.stderr


@pytest.mark.parametrize("name", NAMES)
def test_the_stub_says_where_a_name_is_written(name):
    "What a type checker reads is what Python does: a definition, not something that the module imported itself."
    stub = ast.parse((Path(ddpm_course.__file__).with_suffix(".pyi")).read_text(encoding="utf-8"))
    homes = [node.module for node in stub.body if isinstance(node, ast.ImportFrom) for a in node.names
             if a.name == a.asname == name]
    thing = getattr(ddpm_course, name)
    home = thing.__package__ if inspect.ismodule(thing) else thing.__module__
    assert [home] == [f"ddpm_course.{home or name}" for home in homes]


def test_an_unknown_name_is_refused_by_name():
    with pytest.raises(ImportError, match="tarin"):
        from ddpm_course import tarin  # noqa: F401


def test_the_version_is_the_line_that_nbdev_and_the_release_workflow_rewrite():
    version = re.search(r"^version *= *(\S+)$", (ROOT / "settings.ini").read_text(encoding="utf-8"), re.M)[1]
    lines = Path(ddpm_course.__file__).read_text(encoding="utf-8").splitlines()
    assert lines.count(f'__version__ = "{version}"') == 1 and ddpm_course.__version__ == version


@pytest.mark.parametrize("chosen, kept", [({}, "PASSIVE 1000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None"),
                                          ({"OMP_WAIT_POLICY": "PASSIVE"}, "PASSIVE None"),
                                          ({"GOMP_SPINCOUNT": "7"}, "PASSIVE 7")])
def test_waiting_threads_leave_the_processor_unless_a_person_chose_otherwise(chosen, kept):
    code = "import ddpm_course, os, sys; e = os.environ; " \
           "print(e['OMP_WAIT_POLICY'], e.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    assert fresh(code, **chosen) == f"{kept} False"
