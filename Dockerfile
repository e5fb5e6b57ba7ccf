# Two images: `serve` (the default) answers HTTP with the bundle at /model, and holds the demo's; `batch` runs the
# Makefile's targets (embed, tune, report, export) where a machine has nothing but a container engine.
#
#     docker build -t meme-classifier .
#     docker build -t meme-classifier:gpu --build-arg TORCH_INDEX_URL= .
#     docker build -t meme-classifier:batch --target batch .

# To pin every byte: --build-arg PYTHON_IMAGE=python:3.11.15-slim-bookworm@sha256:<digest>
ARG PYTHON_IMAGE=python:3.11.15-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    # whoever the container runs as, this much is writable even where the root is not
    HOME=/tmp \
    HF_HOME=/weights
WORKDIR /app

FROM base AS serve-packages
# Where torch comes from: PyTorch's builds for CPUs or, when empty, the package index's own, for CUDA and gigabytes larger.
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
COPY requirements.txt container/serve.txt /tmp/
RUN python3 -m venv /opt/venv \
    && grep -E '^torch(vision)?==' /tmp/requirements.txt > /tmp/torch.txt \
    && pip install --no-deps ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} -r /tmp/torch.txt \
    && pip install -c /tmp/requirements.txt -r /tmp/serve.txt

FROM serve-packages AS batch-packages
COPY container/batch.txt /tmp/
RUN pip install -c /tmp/requirements.txt -r /tmp/batch.txt

# The demo's bundle: made here, so that nothing binary is kept in the repository.
FROM batch-packages AS demo
COPY . .
RUN python3 -m embed && python3 -m head tune --trials 40 && python3 -m report && python3 -m api export --out /model

FROM batch-packages AS batch
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
COPY . .
# The packages are there: make has nothing to install, whatever the times of the files.
RUN touch /opt/venv/installed && mkdir -p artifacts /weights && chmod 1777 artifacts /weights
USER 10001:10001
ENTRYPOINT ["make", "VENV=/opt/venv"]
CMD ["help"]

FROM base AS serve
COPY --from=serve-packages /opt/venv /opt/venv
COPY --from=demo /model /model
COPY LICENSE ./
COPY api ./api
COPY cache ./cache
COPY embed ./embed
COPY head ./head
# A volume there inherits the mode: whoever the container runs as can write.
RUN python3 -m compileall -q . && mkdir /weights && chmod 1777 /weights
ENV API_BUNDLE=/model \
    API_HOST=0.0.0.0 \
    API_PORT=8080
USER 10001:10001
EXPOSE 8080
# Failures do not count while it starts, which takes minutes where weights are fetched; the first success ends that.
HEALTHCHECK --interval=10s --timeout=5s --start-period=900s CMD ["python3", "-c", "import http.client, os, sys; \
server = http.client.HTTPConnection('127.0.0.1', int(os.environ['API_PORT']), timeout=4); \
server.request('GET', '/readyz'); sys.exit(server.getresponse().status != 200)"]
ENTRYPOINT ["python3", "-m", "api"]
CMD ["serve"]
