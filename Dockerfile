# syntax=docker/dockerfile:1
# The image of worker, door, deploy, commands and Prefect server; docs/cluster.md says how to run each. Build it with
# `make image`. BASE is any image with Python 3.11 to 3.13, venv and pip. It is named by its tag and not by a digest, so
# that each build has the current security fixes of Debian and Python; give a digest where builds must repeat:
#   make image BASE=python:3.11-slim@sha256:…
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
WORKDIR /srv/i2v
RUN python3 -m venv --without-pip .venv
COPY requirements-image.txt .
# Your pip configuration (a mirror, a proxy, a CA) is a secret of the build, so that no layer holds it.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m pip --python .venv/bin/python install --no-cache-dir --no-compile --no-deps --only-binary :all: \
      --require-hashes -r requirements-image.txt
COPY LICENSE README.md pyproject.toml prefect.yaml ./
COPY src src
COPY flows flows
COPY tasks tasks
COPY prefect_support prefect_support
COPY doors doors
COPY deployments deployments
# An editable install, as in a checkout: runs compare the library with the flows beside it. Its build needs nothing more.
RUN python3 -m pip --python .venv/bin/python install --no-cache-dir --no-deps --no-build-isolation --no-index \
      --editable . && \
    python3 -m pip --python .venv/bin/python uninstall --yes --quiet hatchling trove-classifiers && \
    .venv/bin/python -m compileall -q .venv/lib src flows tasks prefect_support doors deployments

FROM ${BASE}
RUN useradd --uid 10001 --create-home i2v
COPY --from=build /srv/i2v /srv/i2v
WORKDIR /srv/i2v
USER 10001:10001
ENV PATH=/srv/i2v/deployments/container:/srv/i2v/.venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 DO_NOT_TRACK=1 MALLOC_ARENA_MAX=1
ENTRYPOINT ["entrypoint"]
CMD ["i2v", "--help"]
# A door answers at the first address, a worker (`--with-healthcheck`) at the second; compose.yaml asks for one of them.
HEALTHCHECK --start-period=60s CMD ["health", "http://127.0.0.1:8410/healthz", "http://127.0.0.1:8080/health"]
