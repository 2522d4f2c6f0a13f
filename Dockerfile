# The node (also worker and autoscaler) and the load balancer. BASE is any Debian with python3 and venv: a registry's
# python image, or what `make images` builds from the distribution's packages. Exactly the locked versions go in.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS wheels
# deploy/wheels/ is there when wheels were built beforehand, with a lock of their own in the place of the checkout's;
# INDEX="--no-index" then keeps pip from asking anybody.
ARG INDEX=""
COPY requirements-run.lock deploy/wheel[s]/* /wheels/
RUN python3 -m venv /opt/acordo \
    && /opt/acordo/bin/pip install -q --no-cache-dir --disable-pip-version-check --no-deps --require-hashes ${INDEX} --find-links /wheels \
       -r /wheels/requirements-run.lock \
    && /opt/acordo/bin/pip uninstall -q -y pip setuptools \
    && find /opt/acordo -name __pycache__ -prune -exec rm -rf {} +

FROM ${BASE} AS node
RUN (command -v tini >/dev/null || (apt-get update -q && apt-get install -y -q --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/*)) \
    && useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin acordo \
    && install -d -o 10001 -g 10001 -m 0700 /data /secrets
COPY --from=wheels /opt/acordo /opt/acordo
WORKDIR /app
COPY kv kv
COPY backends backends
COPY coordinator coordinator
COPY node node
COPY acordo acordo
COPY cluster cluster
COPY deploy/*.py deploy/healthy.sh deploy/entry.sh deploy/
# COPY keeps the checkout's modes, and they follow its owner's umask.
RUN chmod -R a+rX /app && /opt/acordo/bin/python -m compileall -q /app /opt/acordo
ENV PATH=/opt/acordo/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
# /data and /secrets are no VOLUME: each container that mounts nothing there would leave anonymous ones behind.
EXPOSE 8000 9001
HEALTHCHECK --interval=5s --timeout=15s --start-period=120s --retries=4 \
    CMD ["bash", "/app/deploy/healthy.sh", "8000", "/readyz"]
ENTRYPOINT ["tini", "--", "bash", "/app/deploy/entry.sh"]
CMD ["python", "-m", "node"]

FROM ${BASE} AS nginx
RUN apt-get update -q && apt-get install -y -q --no-install-recommends nginx-light \
    && (command -v tini >/dev/null || apt-get install -y -q --no-install-recommends tini) \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb
COPY deploy/__init__.py deploy/balancer.py deploy/healthy.sh /app/deploy/
COPY deploy/nginx /app/deploy/nginx
RUN chmod -R a+rX /app
WORKDIR /app
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=15s --start-period=60s --retries=4 \
    CMD ["bash", "/app/deploy/healthy.sh", "8080", "/balancer"]
USER 33:33
ENTRYPOINT ["tini", "--"]
CMD ["python3", "-m", "deploy.balancer"]
