# One image for control and spheres: Python 3.11 or newer, a virtual environment, nothing else.
#
# Wheels come from wheelhouse/ if it holds any (`pip download -d wheelhouse -c constraints.txt . setuptools`, with the
# same Python, where the build reaches no registry), else from PyPI. A base with a compiler, --build-arg
# BASE=python:3.11, also compiles the sums: the same bits, sooner.
ARG BASE=python:3.11-slim
FROM ${BASE}

COPY . /opt/lightwatch/source
RUN cd /opt/lightwatch \
 && python3 -m venv venv \
 && if ls source/wheelhouse/*.whl >/dev/null 2>&1; then from="--no-index --find-links source/wheelhouse"; fi \
 && PIP_DISABLE_PIP_VERSION_CHECK=1 venv/bin/python -m pip install --no-cache-dir $from -c source/constraints.txt ./source \
 && rm -rf source

# A volume that is mounted over one of these is its owner's from the first moment.
RUN useradd --create-home lightwatch \
 && mkdir /keys /var/lib/lightwatch \
 && chown lightwatch: /keys /var/lib/lightwatch
USER lightwatch
WORKDIR /var/lib/lightwatch
ENV PATH=/opt/lightwatch/venv/bin:$PATH PYTHONUNBUFFERED=1
ENTRYPOINT []
CMD ["lightwatch", "--help"]
