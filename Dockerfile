# syntax=docker/dockerfile:1

FROM rust:1.95-slim-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential libssl-dev pkg-config zlib1g-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The caches outlive a build, so a change of the source compiles the source alone; what is in a cache is in no layer, hence the copy.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --bin fusebox \
 && cp target/release/fusebox /usr/local/bin/fusebox

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /usr/local/bin/fusebox /usr/local/bin/fusebox
COPY deploy/healthcheck /usr/local/bin/fusebox-healthcheck
# By number, so that Kubernetes can see that it is not root. Nothing is written to the file system.
USER 10001:10001
# Configs name their files relative to here.
WORKDIR /etc/fusebox
EXPOSE 8080
STOPSIGNAL SIGTERM
# Liveness only: an instance without Kafka or Redis is not helped by a restart.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["fusebox-healthcheck"]
ENTRYPOINT ["fusebox"]
CMD ["run"]
