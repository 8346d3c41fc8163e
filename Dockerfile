# One image for every stage; the command says which: `meterline run intake`, `meterline topics`, …
FROM python:3.12-slim

RUN pip install --no-cache-dir uv
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never

# The dependencies change seldom and are a layer of their own.
WORKDIR /app
COPY pyproject.toml uv.lock README.md ./
RUN uv sync --locked --no-dev --no-install-project

COPY meterline meterline
COPY schemas schemas
COPY pipeline pipeline
COPY streams streams
COPY sinks sinks
RUN uv sync --locked --no-dev --no-editable \
 && useradd --create-home meterline \
 && install --directory --owner meterline /var/lib/meterline

# Outside /app, so that what runs is what was installed.
WORKDIR /home/meterline
ENV METERLINE_STATE_DIRECTORY=/var/lib/meterline
USER meterline
ENTRYPOINT ["/app/.venv/bin/meterline"]
