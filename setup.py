"""The packages of the wheel; everything else that it needs is in setup.cfg.

train/ is where who reads the repository looks for the two scripts and their recipes. The command
`keras-squeezenet` finds them as a package of its own.
"""

from setuptools import find_packages, setup

SCRIPTS = "keras_squeezenet.scripts"

setup(
    packages=[*find_packages(include=["keras_squeezenet*"]), SCRIPTS],
    package_dir={SCRIPTS: "train"},
)
