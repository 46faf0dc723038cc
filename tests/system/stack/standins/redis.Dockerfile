# Stands in for redis:8-bookworm.
FROM debian:bookworm-slim
RUN groupadd -r -g 999 redis && useradd -r -g 999 -u 999 redis \
 && apt-get update && apt-get install -y --no-install-recommends redis-server && rm -rf /var/lib/apt/lists/* \
 && mkdir /data && chown 999:999 /data
WORKDIR /data
EXPOSE 6379
CMD ["redis-server"]
