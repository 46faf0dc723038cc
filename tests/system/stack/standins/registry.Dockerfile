# Stands in for registry:3.
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends docker-registry wget && rm -rf /var/lib/apt/lists/* \
 && printf 'version: 0.1\nlog: {level: warn}\nstorage:\n  filesystem: {rootdirectory: /var/lib/registry}\n  delete: {enabled: true}\nhttp: {addr: ":5000"}\n' >/etc/registry.yml
EXPOSE 5000
ENTRYPOINT ["docker-registry"]
CMD ["serve", "/etc/registry.yml"]
