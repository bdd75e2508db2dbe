"""Builds the two native modules of cellrt. Everything else about the package is in pyproject.toml.

The C++ kernels are compiled once and linked into both modules, so that each is one file that needs nothing beside it.
Files that did not change since the last build are not compiled again.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

# -ffp-contract=off: the same results on every machine. Never -march=native or -ffast-math; no OpenMP (parallel.hpp).
UNIX_FLAGS = ["-std=c++17", "-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden", "-fno-math-errno", "-Wall"]
MSVC_FLAGS = ["/std:c++17", "/O2", "/fp:precise", "/EHsc"]

MACROS: list[tuple[str, str | None]] = [("CELLRT_STATIC", None)]
INCLUDE_DIRS = ["csrc/include", "csrc/src"]
KERNELS = sorted(path.as_posix() for path in Path("csrc/src").glob("*.cpp"))
HEADERS = sorted(path.as_posix() for folder in INCLUDE_DIRS for path in Path(folder).glob("*.h*"))


class BuildNative(build_ext):
    """Compiles the kernels on all cores, then both modules at the same time."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.parallel = os.cpu_count()

    def build_extensions(self) -> None:
        is_msvc = self.compiler.compiler_type == "msvc"
        flags = MSVC_FLAGS if is_msvc else UNIX_FLAGS
        # Not build_temp: an editable install throws that away, and the kernels do not depend on the Python version.
        folder = f"build/kernels.{self.plat_name}"

        def compile_kernel(source: str) -> str:
            (kernel_object,) = self.compiler.object_filenames([source], output_dir=folder)
            if newer_group([source, *HEADERS, "setup.py"], kernel_object):
                self.compiler.compile(
                    [source],
                    output_dir=folder,
                    macros=MACROS,
                    include_dirs=INCLUDE_DIRS,
                    extra_postargs=flags,
                )
            return kernel_object

        with ThreadPoolExecutor(self.parallel) as pool:
            kernel_objects = list(pool.map(compile_kernel, KERNELS))
        for extension in self.extensions:
            extension.extra_objects = kernel_objects
            extension.extra_compile_args = flags
            extension.extra_link_args = [] if is_msvc else ["-pthread"]
        super().build_extensions()


def native_module(name: str, binding: str, include_dirs: list[str]) -> Extension:
    return Extension(
        name,
        [binding],
        include_dirs=[*INCLUDE_DIRS, *include_dirs],
        define_macros=MACROS,
        depends=[*KERNELS, *HEADERS],
        language="c++",
    )


setup(
    ext_modules=[
        *cythonize([native_module("cellrt._kernels", "csrc/bindings/_kernels.pyx", [])], language_level=3),
        native_module("cellrt._engine", "csrc/bindings/_engine.cpp", [pybind11.get_include()]),
    ],
    cmdclass={"build_ext": BuildNative},
)
