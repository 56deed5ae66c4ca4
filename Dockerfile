# syntax=docker/dockerfile:1
# One image for the webserver, the daemon, the code server and the runs: the task says which, by its command.
# `make image-check` builds it without a Docker engine and tries each role.

# Pinned by digest (of the index over all architectures; the tag says to people what it is). A registry could not be asked
# where this was written: the digest is what public projects pin for this tag, and a wrong one does not build.
# A mirror's or a locally made image does too (--build-arg BASE=...): it needs `python` (3.11 to 3.13) with venv and pip,
# and nothing else.
ARG BASE=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

# The dependencies, in a layer that changes only with the lock. All of them are wheels: no compiler anywhere.
FROM ${BASE} AS dependencies
WORKDIR /build
COPY requirements.lock ./
RUN python -m venv --without-pip /opt/runway \
    && python -m pip --python /opt/runway/bin/python install --no-cache-dir --disable-pip-version-check \
        --only-binary :all: --require-hashes --no-deps --requirement requirements.lock

FROM ${BASE} AS wheel
WORKDIR /build
COPY requirements-build.lock ./
RUN python -m venv --without-pip /opt/build \
    && python -m pip --python /opt/build/bin/python install --no-cache-dir --disable-pip-version-check \
        --only-binary :all: --require-hashes --no-deps --requirement requirements-build.lock
COPY pyproject.toml README.md ./
COPY runway_pipelines runway_pipelines
RUN /opt/build/bin/hatchling build --target wheel --directory /build/dist

FROM ${BASE}
# A number, so that the platform can see that it is not root; fixed, so that volumes keep their owner.
RUN groupadd --gid 10001 runway \
    && useradd --uid 10001 --gid 10001 --no-log-init --create-home --shell /usr/sbin/nologin runway \
    && install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/dagster
COPY --from=dependencies /opt/runway /opt/runway
RUN --mount=type=bind,from=wheel,source=/build/dist,target=/build/dist \
    python -m pip --python /opt/runway/bin/python install --no-cache-dir --disable-pip-version-check \
        --no-index --no-deps /build/dist/*.whl
COPY deploy/certificates /opt/dagster/certificates
COPY deploy/ecs/dagster.yaml deploy/ecs/workspace.yaml /opt/dagster/
ENV PATH=/opt/runway/bin:$PATH \
    DAGSTER_HOME=/opt/dagster \
    DAGSTER_DISABLE_TELEMETRY=yes \
    PYTHONUNBUFFERED=1
WORKDIR /opt/dagster
USER 10001:10001

# What the image does when nobody says otherwise, and how to see that it does: the code server. `api grpc` and not
# `code-server start`: that one keeps a second process so that code can be reloaded in place, and code in an image never
# changes; here the process that fails is the one that the platform watches and replaces.
# The other roles bring their own check (deploy/ecs/services.yaml); ECS looks at none but those of its task definition.
EXPOSE 4000
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["dagster", "api", "grpc-health-check", "--port", "4000"]
CMD ["dagster", "api", "grpc", "--host", "0.0.0.0", "--port", "4000", "--module-name", "runway_pipelines.definitions", \
     "--location-name", "runway_pipelines", "--log-format", "json"]
