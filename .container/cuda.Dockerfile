# mcdiff-batch on NVIDIA GPUs.  From the root of the repository:
#   docker build -f .container/cuda.Dockerfile -t mcdiff-batch:cuda --build-arg COMMIT=$(git rev-parse HEAD) .
# The driver comes from the host, through the NVIDIA Container Toolkit; CUDA and TensorRT from PyPI.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
COPY pyproject.toml README.md /src/
COPY engine /src/engine
COPY train /src/train
COPY export /src/export
COPY bench /src/bench
# tensorrt is for data-centre GPUs, tensorrt-rtx for workstation GPUs
ARG EXTRAS=cloud,dicom,tensorrt
RUN python3 -m venv /opt/mcdiff && /opt/mcdiff/bin/pip install --no-cache-dir "/src[${EXTRAS}]"

FROM ${BASE}
COPY --from=build /opt/mcdiff /opt/mcdiff
RUN useradd --system --uid 10001 --home-dir /cache mcdiff \
    && install -d -o mcdiff -g mcdiff /archive /output /cache
ARG COMMIT=
ENV PATH=/opt/mcdiff/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    XDG_CACHE_HOME=/cache \
    MCDIFF_COMMIT=${COMMIT} \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
LABEL org.opencontainers.image.title=mcdiff-batch \
      org.opencontainers.image.revision=${COMMIT}
VOLUME ["/archive", "/output", "/cache"]
WORKDIR /output
USER 10001
STOPSIGNAL SIGTERM
HEALTHCHECK NONE
ENTRYPOINT ["mcdiff-batch"]
CMD ["--help"]
