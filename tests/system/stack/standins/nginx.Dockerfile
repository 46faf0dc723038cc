# Stands in for nginx:1.29-trixie: `server … resolve` came with nginx 1.27.3, and the first Debian with a newer one is 14.
FROM debian:bookworm-slim
ENV DEBIAN_FRONTEND=noninteractive
# Between the two releases, a file moved from one package of OpenSSL to another.
RUN sed -i -e '0,/^Suites:.*/s//Suites: forky/' -e '/^$/,$d' /etc/apt/sources.list.d/debian.sources \
 && apt-get update && apt-get install -y --no-install-recommends -o Dpkg::Options::=--force-overwrite nginx-light curl \
 && rm -rf /var/lib/apt/lists/*
EXPOSE 80
STOPSIGNAL SIGQUIT
CMD ["nginx", "-g", "daemon off;"]
