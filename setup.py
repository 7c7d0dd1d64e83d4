"""The one part of lightwatch that gets compiled; everything else about the package stands in pyproject.toml.

It is optional: without a C compiler or Python.h the installation goes on, and torch does the same in several passes.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "lightwatch._sums",
            ["lightwatch/_sums.c"],
            extra_compile_args=[
                "-O3",
                "-ffp-contract=off",
                "-fno-math-errno",
                "-fno-trapping-math",
                "-fno-strict-aliasing",
            ],
            optional=True,
        )
    ]
)
