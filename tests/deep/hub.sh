# Starts and stops the real binary for the scripts beside this one: `. tests/deep/hub.sh`, from the root of the tree.

target=${CARGO_TARGET_DIR:-$PWD/target}
lanyard=${LANYARD_BIN:-$target/proof/lanyard}
examples=$(dirname "$lanyard")/examples

# The whole workspace, as the tests build it, so that nothing is compiled twice. LANYARD_BIN names one that is built already,
# with its examples beside it.
build_hub() {
    [ -z "${LANYARD_BIN:-}" ] || return 0
    cargo build --workspace --bins --examples --profile proof --locked || exit 1
}

# start_hub PORT [ARGUMENT…]: everybody is let in, nothing is asked; $hub is its process, $data its directory.
start_hub() {
    port=$1
    shift
    data=$(mktemp -d)
    "$lanyard" serve --listen "127.0.0.1:$port" --admit everyone --headless --data "$data" "$@" >"$data/log" 2>&1 &
    hub=$!
    trap stop_hub EXIT
    for _ in $(seq 100); do
        curl -fsS "http://127.0.0.1:$port/healthz" 2>/dev/null | grep -q '"hub_ready":true' && return 0
        sleep 0.1
    done
    echo "the hub did not start:"
    cat "$data/log"
    exit 1
}

stop_hub() {
    kill "$hub" 2>/dev/null
    wait "$hub" 2>/dev/null
    rm -rf "$data"
}
