"""Lists the packages of the wheel: the configs become a folder of the package. pyproject.toml holds all else."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[
        *find_namespace_packages(include=["lightning_ood*"]),
        "lightning_ood.configs",
        *(f"lightning_ood.configs.{name}" for name in find_namespace_packages("configs")),
    ],
    package_dir={"lightning_ood.configs": "configs"},
)
