# `make test` is all that CI runs. It never writes to the source tree.

export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tsoracle/target

NEXTEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo yes)

.PHONY: test packages fmt lint docs features unit stranger bench

test: packages fmt lint docs features unit stranger

# System packages that the tests need, and the default build does not: RocksDB's bindings are made
# with libclang, and its code is C++.
packages:
	.ci/packages protoc:protobuf-compiler libclang.so:libclang-dev c++:g++

fmt:
	cargo fmt --all --check

lint:
	cargo clippy --workspace --all-targets --all-features -- -D warnings

docs:
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --all-features

# Each feature alone, and none, but for `rocksdb`, whose C++ would be built once more. By path: a client
# of the same name is among the tests' dependencies.
features:
	cargo check --manifest-path drivers/Cargo.toml --no-default-features
	cargo check --manifest-path drivers/Cargo.toml --no-default-features --features file
	cargo check --manifest-path drivers/Cargo.toml --no-default-features --features openraft
	cargo check --manifest-path conformance/Cargo.toml --no-default-features
	cargo check --manifest-path conformance/Cargo.toml --no-default-features --features suite
	cargo check --manifest-path conformance/Cargo.toml --no-default-features --features deployment
	cargo check --manifest-path server/Cargo.toml --no-default-features
	cargo check --manifest-path server/Cargo.toml --no-default-features --features cli
	cargo check --manifest-path server/Cargo.toml --no-default-features --features cli,file

unit:
ifeq ($(NEXTEST),yes)
	cargo nextest run --workspace --all-features
else
	cargo test --workspace --all-features --lib --bins --tests
endif
	cargo test --workspace --all-features --doc

# A driver as somebody else writes it, in a crate of its own: docs/DRIVERS.md. Its profile is made that
# of the workspace, so that both share what is built.
stranger: export CARGO_PROFILE_DEV_DEBUG = line-tables-only
stranger: export CARGO_PROFILE_DEV_BUILD_OVERRIDE_DEBUG = false
stranger:
	cd conformance/examples/sqlite && cargo fmt --check
	cd conformance/examples/sqlite && cargo clippy --all-targets -- -D warnings
	cd conformance/examples/sqlite && cargo test
	cd conformance/examples/sqlite && cargo run --quiet -- drivers | grep -A1 '^sqlite$$'

# Measures everything on an otherwise quiet machine, in some minutes, and writes the table in
# docs/PERFORMANCE.md from that one run.
bench:
	cargo test --release --manifest-path core/Cargo.toml --test allocations
	cargo build --release
	cargo run --release -- bench suite --write docs/PERFORMANCE.md
