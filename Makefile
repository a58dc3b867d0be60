# `make test` is all that CI runs. It never writes to the source tree.

export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tsoracle/target

NEXTEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo yes)

PARTS := packages fmt lint deny docs features unit stranger packages-debian packages-static packages-kubernetes instructions

.PHONY: test audit $(PARTS) stranger-sqlite stranger-postgres stranger-piggyback bench bench-public \
	bench-against failover chaos

# Ends with how long each part took, and with the tests that were tried again.
test:
	@.ci/parts $(PARTS)

# System packages that the tests need, and the default build does not: RocksDB's bindings are made
# with libclang, and its code is C++. The etcd driver's client is made with protoc, and its tests start etcd;
# those of the example over PostgreSQL start that, and those of metrics Prometheus. What OPERATIONS.md does with jq is run.
# The status page is looked at by Chromium, and probes are asked by curl.
packages:
	.ci/packages protoc:protobuf-compiler libclang.so:libclang-dev c++:g++ etcd:etcd-server \
		promtool:prometheus jq:jq chromium:chromium curl:curl ip:iproute2 unshare:util-linux '/usr/lib/postgresql/*/bin/initdb:postgresql' \
		systemd-analyze:systemd dpkg-deb:dpkg dpkg-shlibdeps:dpkg-dev strace:strace pgrep:procps \
		python3:python3 '/usr/lib/python3*/ensurepip:python3-venv' readelf:binutils

fmt:
	cargo fmt --all --check

lint:
	cargo clippy --workspace --all-targets --all-features -- -D warnings

# Licences, banned crates and sources of what is depended on: deny.toml.
deny:
	.ci/deny check bans licenses sources

# Known vulnerabilities, from a database that is fetched: not a part of `make test`, which needs none.
audit:
	.ci/deny check advisories

docs:
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --all-features

# Each feature alone, and none, but for `rocksdb`, whose C++ would be built once more. By path: a client
# of the same name is among the tests' dependencies.
features:
	cargo check --manifest-path drivers/Cargo.toml --no-default-features
	cargo check --manifest-path drivers/Cargo.toml --no-default-features --features file
	cargo check --manifest-path drivers/Cargo.toml --no-default-features --features etcd
	cargo check --manifest-path drivers/Cargo.toml --no-default-features --features openraft
	cargo check --manifest-path drivers/replica/Cargo.toml --no-default-features
	cargo check --manifest-path server/Cargo.toml
	cargo check --manifest-path server/cli/Cargo.toml --no-default-features
	cargo check --manifest-path server/cli/Cargo.toml --no-default-features --features file
	cargo check --manifest-path server/cli/Cargo.toml --no-default-features --features etcd
	cargo check --manifest-path server/cli/Cargo.toml --no-default-features --features otlp

unit:
ifeq ($(NEXTEST),yes)
	cargo nextest run --workspace --all-features
else
	cargo test --workspace --all-features --lib --bins --tests
endif
	cargo test --workspace --all-features --doc

# Drivers as somebody else writes them, in crates of their own: docs/DRIVERS.md. Their libraries are built
# alone first, since they must not need the server. Their profile is made that of the workspace, so that they
# share what is built.
STRANGERS := stranger-sqlite stranger-postgres
stranger: $(STRANGERS) stranger-piggyback
$(STRANGERS) stranger-piggyback: export CARGO_PROFILE_DEV_DEBUG = line-tables-only
$(STRANGERS) stranger-piggyback: export CARGO_PROFILE_DEV_BUILD_OVERRIDE_DEBUG = false
$(STRANGERS): stranger-%:
	cd conformance/examples/$* && cargo fmt --check
	cd conformance/examples/$* && cargo clippy --lib -- -D warnings
	cd conformance/examples/$* && cargo clippy --all-targets --features server -- -D warnings
	cd conformance/examples/$* && cargo test --features server
	cd conformance/examples/$* && cargo run --quiet --features server -- drivers | grep -A1 '^$*$$'

# A service that carries the oracle in a log of its own.
stranger-piggyback:
	cd conformance/examples/piggyback && cargo fmt --check
	cd conformance/examples/piggyback && cargo clippy --all-targets -- -D warnings
	cd conformance/examples/piggyback && cargo test
	cd conformance/examples/piggyback && cargo run --quiet --example embedded

# What is in packaging/, as far as it can be run without what it is for: the Debian package is unpacked into an empty root and
# its service run as systemd would, the static binary runs where nothing else is, and manifests are validated and their
# pods run as processes.
packages-debian:
	packaging/tests/debian.py "$$(.ci/debian)"

packages-static:
	packaging/tests/static.sh "$$(.ci/static)"

packages-kubernetes:
	.ci/kubernetes kubernetes-validate --strict packaging/kubernetes/tsoracle.yaml
	.ci/kubernetes kubernetes-validate --strict --kubernetes-version 1.32.0 packaging/kubernetes/tsoracle.yaml
	.ci/kubernetes python packaging/tests/kubernetes.py "$$(.ci/static)" packaging/kubernetes/tsoracle.yaml

# Counts instructions under valgrind, and compares them with those on record; without valgrind, or on another
# processor or compiler, it says that it does not.
instructions:
	cargo bench --manifest-path core/Cargo.toml --bench instructions

# Measures everything on an otherwise quiet machine, in some minutes, and writes the table in
# docs/PERFORMANCE.md from that one run. Some of it needs etcd, redis-server and redis-benchmark, and is left
# out without them.
BENCH_OPTIONS ?=
bench: bench-public
	cargo test --release --manifest-path core/Cargo.toml --test allocations
	cargo run --release --manifest-path server/bench/Cargo.toml --features etcd -- suite --write docs/PERFORMANCE.md \
		--public $(CARGO_TARGET_DIR)/release/tsoracle-public $(BENCH_OPTIONS)

# The public client and server, to be measured beside ours. A crate of its own, so that nothing here depends on
# them.
bench-public:
	cargo build --release --manifest-path server/bench/public/Cargo.toml

# Builds the revision REV beside this one, and measures both in turns. Fails if this one is slower.
bench-against:
	@test -n "$(REV)" || { echo "which revision? make bench-against REV=…" >&2; exit 2; }
	.ci/bench-against "$(REV)" $(BENCH_OPTIONS)

# Makes faults of every kind at random on clusters of processes, for so many seconds on each driver, and checks exactly
# what callers saw: a new cluster each minute, under the next seed. With DRIVER=openraft on that one alone.
CHAOS_SECONDS ?= 3600
DRIVER ?=
chaos: export TSORACLE_CHAOS_SECONDS = 60
chaos:
	.ci/chaos "$(CHAOS_SECONDS)" "$(DRIVER)"

# Measures how long a client waits while a node of three is killed, paused, cut off or restarted, each so
# many times in a row, and prints a table. Takes about a minute a driver for each time.
failover: export TSORACLE_FAILOVER ?= 20
failover:
	cargo test --release --manifest-path server/cli/Cargo.toml --features etcd --test cluster
