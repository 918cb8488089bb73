# The image of Backstay: the program, the PostgreSQL clients of every supported major version, redis-cli,
# redis-server, to which restore drills load, and ssh.
#
#   docker build -t backstay .
#
# Not built by this project's tests, which only lint it.

FROM rust:1.95.0-slim-bookworm AS builder
WORKDIR /src
COPY Cargo.toml Cargo.lock rustfmt.toml ./
COPY src src
COPY config/backstay.example.toml config/
# the caches stay with the builder; the program is copied out of the cached folder
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked && cp target/release/backstay /usr/local/bin/backstay

FROM debian:bookworm-slim
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# A dump must be made by a client of the server's major version or newer, and a restore goes best with the server's own: hence all of
# them, from PostgreSQL's own repository, whose key comes with Debian's postgresql-common. gzip, tar and zstd are for restores by hand,
# openssh-client is for targets on SFTP servers.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates openssh-client postgresql-common redis-server tzdata zstd \
    && echo "deb [signed-by=/usr/share/postgresql-common/pgdg/apt.postgresql.org.asc] https://apt.postgresql.org/pub/repos/apt bookworm-pgdg main" \
        > /etc/apt/sources.list.d/pgdg.list \
    && apt-get update \
    && apt-get install -y --no-install-recommends \
        postgresql-client-14 postgresql-client-15 postgresql-client-16 postgresql-client-17 postgresql-client-18 \
    && rm -rf /var/lib/apt/lists/*

COPY --from=builder /usr/local/bin/backstay /usr/local/bin/backstay
COPY config/backstay.example.toml /usr/local/share/doc/backstay/
# `ak backup`, `ak listbackups`, `ak restore` work as they did in authentik's own worker. The user is whom the Kubernetes manifests run it
# as: ssh wants one to have a name.
RUN ln -s backstay /usr/local/bin/ak \
    && useradd --uid 1000 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin backstay

# It runs as root, as authentik's worker does: the volumes hold files of several users (uid 1000, root), which a backup must read and a
# restore must give back to their owners. Where that is not needed, `--user` works; drop what capabilities you can, as docker-compose.yml
# does.
ENTRYPOINT ["/usr/local/bin/backstay"]
CMD ["worker"]
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=60s --timeout=15s --start-period=30s --retries=3 CMD ["/usr/local/bin/backstay", "healthcheck"]
