# Stands in for the seed of deploy/training, which trains the model. Its context: a TANDEM_HOME as `demo`, and seed-entrypoint.
ARG BATCH
FROM ${BATCH}
COPY demo /demo
COPY seed-entrypoint /entrypoint
USER 0
RUN chmod -R go=rX /demo
USER 10001:10001
ENTRYPOINT ["/bin/sh", "/entrypoint"]
