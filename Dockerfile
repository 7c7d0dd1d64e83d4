# One image for control and spheres: Python 3.11 or newer, a virtual environment, nothing else.
#
# Wheels come from wheelhouse/ if it holds any (where the build reaches no registry: with the same Python,
# `pip download -d wheelhouse -c constraints.txt . setuptools`), else from PyPI. A base with a compiler, --build-arg
# BASE=python:3.11, also compiles the sums: the same bits, sooner.
ARG BASE=python:3.11-slim
FROM ${BASE} AS made

# What is needed first, in a layer of its own: our own code changes more often.
WORKDIR /opt/lightwatch
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY constraints.txt pyproject.toml wheelhouse* wheelhouse/
RUN python3 -m venv venv \
 && if ls wheelhouse/*.whl >/dev/null 2>&1; then \
      printf '[global]\nno-index = true\nfind-links = /opt/lightwatch/wheelhouse\n' >venv/pip.conf; fi \
 && venv/bin/python -c 'import tomllib; print(*tomllib.load(open("wheelhouse/pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' >needed.txt \
 && venv/bin/python -m pip install -c wheelhouse/constraints.txt -r needed.txt
COPY . source
RUN venv/bin/python -m pip install -c source/constraints.txt ./source \
 && rm -f venv/pip.conf

FROM ${BASE}
COPY --from=made /opt/lightwatch/venv /opt/lightwatch/venv

# A volume that is mounted over one of these is its owner's from the first moment.
RUN useradd --create-home lightwatch \
 && mkdir /keys /var/lib/lightwatch \
 && chown lightwatch: /keys /var/lib/lightwatch
USER lightwatch
WORKDIR /var/lib/lightwatch
ENV PATH=/opt/lightwatch/venv/bin:$PATH PYTHONUNBUFFERED=1
CMD ["lightwatch", "--help"]
