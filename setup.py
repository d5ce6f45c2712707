"""Builds and installs the package. Everything that may change is in settings.ini, which nbdev reads too."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import Distribution, find_packages, setup

here = Path(__file__).parent
settings = ConfigParser(delimiters=["="])
settings.read(here / "settings.ini", encoding="utf-8")
cfg = settings["DEFAULT"]
course, diffusers = cfg["course_requirements"].split(), cfg["diffusers_requirements"].split()


class EditableToo(Distribution):
    """So that `pip install -e` puts the data files into the environment too: it asks for them by this name."""
    def has_data(self):
        return self.has_data_files()


setup(
    distclass=EditableToo,
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license="Apache-2.0 AND CC-BY-SA-3.0",  # the code; the bundled digits
    license_files=["LICENSE", "ddpm_course/assets/digits/README.md"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        *[f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12, 13, 14)],
    ],
    packages=find_packages(include=[cfg["lib_path"], cfg["lib_path"] + ".*"]),
    package_data={cfg["lib_path"]: ["__init__.pyi", "py.typed", "assets/**/*"]},
    data_files=[("etc/jupyter/jupyter_server_config.d", ["ddpm_course/assets/jupyter/ddpm_course.json"])],
    python_requires=">=" + cfg["min_python"],
    install_requires=cfg["requirements"].split(),
    extras_require={"course": course, "diffusers": diffusers, "bench": diffusers + cfg["bench_requirements"].split(),
                    "dev": course + diffusers + cfg["dev_requirements"].split()},
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],
    },
    zip_safe=False,
)
