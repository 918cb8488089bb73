# `just` lists these; each is a script or a cargo command that works without just.

default:
    @just --list

# everything that must hold
test *FILTER:
    ./test {{ FILTER }}

# try it on throwaway servers
quickstart:
    ./quickstart

# measure backups and restores against other tools (docs/performance.md)
bench *OPTIONS:
    bench/run {{ OPTIONS }}

# servers and linters of the tests
install:
    scripts/install-test-servers

format:
    cargo fmt

# what ./test checks before it runs tests
lint: install
    cargo fmt --check
    scripts/lint-files
    PATH="$PATH:.tools/bin" cargo deny check licenses bans sources
    cargo clippy --all-targets -- -D warnings

# known vulnerabilities; needs the advisory database
audit:
    PATH="$PATH:.tools/bin" cargo deny check advisories

# crates that are there in more than one version
duplicates:
    cargo tree --duplicates --depth 1

release:
    cargo build --release --locked
