# Two images from one recipe: `--target cpu` (the default) and `--target gpu` (CUDA 12, x86-64).
FROM python:3.11-slim AS build
# The environment is built without pip: nothing in the running image can install packages.
RUN python3 -m venv --without-pip /opt/momoseek
WORKDIR /src

FROM build AS wheel
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY models models
COPY index index
COPY service service
COPY momoseek momoseek
RUN python3 -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM build AS build-cpu
COPY requirements/cpu.txt .
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip --python /opt/momoseek/bin/python install --require-hashes -r cpu.txt
COPY --from=wheel /wheels /wheels
RUN python3 -m pip --python /opt/momoseek/bin/python install --no-cache-dir --no-deps /wheels/*.whl

FROM build AS build-gpu
COPY requirements/gpu.txt .
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip --python /opt/momoseek/bin/python install --require-hashes -r gpu.txt
COPY --from=wheel /wheels /wheels
RUN python3 -m pip --python /opt/momoseek/bin/python install --no-cache-dir --no-deps /wheels/*.whl

FROM python:3.11-slim AS runtime
# A fixed number, so that the owner of a mounted data folder can be set before the container exists.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin momoseek \
    && install --directory --owner=10001 --group=10001 /data
# 0.0.0.0: inside a container the loopback address cannot be reached from outside.
# Telemetry off: newer ONNX Runtime releases queue usage events unless told not to.
ENV PATH=/opt/momoseek/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    MOMOSEEK_HOST=0.0.0.0 \
    MOMOSEEK_PORT=8000 \
    MOMOSEEK_DATA_DIR=/data
# Declared after its owner is set: changes to a volume's folder in later steps would be lost.
VOLUME ["/data"]
EXPOSE 8000
# The service drains on SIGTERM; the exec form of the entry point lets the signal reach it instead of a shell.
STOPSIGNAL SIGTERM
# Liveness, not readiness: a container that still loads its index must not be restarted for it.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['MOMOSEEK_PORT'] + '/livez', timeout=2)"]
USER 10001:10001
WORKDIR /data
ENTRYPOINT ["momoseek"]
CMD ["serve"]

FROM runtime AS gpu
# What the NVIDIA container runtime reads to mount the driver.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-gpu /opt/momoseek /opt/momoseek

FROM runtime AS cpu
COPY --from=build-cpu /opt/momoseek /opt/momoseek
