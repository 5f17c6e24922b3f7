# Shortcuts for what one types every day; `just` alone lists them. CONTRIBUTING.md tells what each step is for.

_list:
    @just --list --unsorted

# Compiles and lints the Rust workspace and the web client, without running a test.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    npm --prefix client-web run check
    npm --prefix client-web run lint

# Runs what must pass before a push; names of steps narrow it: `just test sim web`.
test *STEPS:
    tests/run {{ STEPS }}

# Serves the web client with hot reload, in front of a hub that runs on port 7070.
web:
    npm --prefix client-web run dev

# Runs the stories in real browsers against a hub of this tree.
e2e:
    tests/run e2e

# Builds static Linux binaries with their checksums into target/dist: `just dist`, or with a list of targets.
dist *TARGETS:
    packaging/dist {{ TARGETS }}
