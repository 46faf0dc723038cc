# Stands in for postgres:17-bookworm: its user 999, its variables POSTGRES_USER, _DB and _PASSWORD_FILE, and its PGDATA.
FROM debian:bookworm-slim
RUN groupadd -r -g 999 postgres && useradd -r -g 999 -u 999 -d /var/lib/postgresql -s /bin/bash postgres \
 && apt-get update && apt-get install -y --no-install-recommends postgresql-15 && rm -rf /var/lib/apt/lists/* \
 && rm -rf /var/lib/postgresql && mkdir -p /var/lib/postgresql/data && chown -R 999:999 /var/lib/postgresql
ENV LANG=C.UTF-8 PATH=/usr/lib/postgresql/15/bin:$PATH PGDATA=/var/lib/postgresql/data
COPY postgres-entrypoint /entrypoint
EXPOSE 5432
STOPSIGNAL SIGINT
ENTRYPOINT ["/bin/sh", "/entrypoint"]
