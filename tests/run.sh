#!/usr/bin/env bash
# Runs the tests with the Python given first; all else is for pytest. In lanes at once, since most of what runs the
# daemon, or has network namespaces to itself, waits for timers. What can be compiled is compiled meanwhile, and tested
# again then. What the other lanes print comes after the first one's. Exit status: that of a lane that failed.
set -uo pipefail
python=$1
shift

for argument in "$@"; do
    # Only some are wanted.
    [ -e "${argument%%::*}" ] && exec "$python" -m pytest "$@"
done

networks=(tests/lab tests/vrrp tests/daemon/test_{flowlog,kernel_names,kernel_upgrade}.py)
daemon=(tests/kernel tests/e2e tests/system)
again=(
    tests/wire/test_{fields,framing,http1,proxyproto,rewrite}.py tests/algorithms
    tests/pool/test_{backend,facts,server,share,sticky,waiting}.py
    tests/proxy/test_{exchange,filters,http,isolation,listen,origin,replies,route,sources,stream}.py
    tests/proxy/test_{strictness,sweep,tcp,upstream}.py tests/e2e/test_http.py
    tests/e2e/test_reload.py::test_frontends_that_are_added_and_removed
)
compiled=$PWD/build/compiled

# Of two exit statuses the one that counts: a failure, else success; pytest(1): 5 means that none was selected.
both() {
    case $1 in
        5) return "$2" ;;
        0) return $(($2 == 5 ? 0 : $2)) ;;
        *) return "$1" ;;
    esac
}
networks() {
    "$python" -m pytest -p no:cacheprovider "${networks[@]}" "$@"
}
daemon() {
    "${MAKE:-make}" --no-print-directory compiled
    local made=$?
    "$python" -m pytest -p no:cacheprovider "${daemon[@]}" "$@"
    local status=$?
    return $((made ? made : status))
}
# By then it has long been made; where it could not be, that lane has failed.
again() {
    [ -e "$compiled/.made" ] || return 5
    echo "Again, compiled:"
    PYBALANCER_COMPILED=1 PYTHONPATH=$compiled "$python" -m pytest -p no:cacheprovider \
        -o "pythonpath=$compiled ." "${again[@]}" "$@"
}

logs=$(mktemp -d)
lanes=()
# Each a process group of its own, so that all of it can be ended.
set -m
for lane in networks daemon; do
    "$lane" "$@" >"$logs/$lane" 2>&1 &
    lanes+=("$!")
done
set +m
trap 'kill -INT -- "${lanes[@]/#/-}" 2>/dev/null; wait "${lanes[@]}"; rm -rf "$logs"' EXIT
trap 'exit 130' INT TERM

apart=("${networks[@]}" "${daemon[@]}")
"$python" -m pytest "${apart[@]/#/--ignore=}" "$@"
status=$?
again "$@"
both "$status" $?
status=$?
for lane in "${lanes[@]}"; do
    wait "$lane"
    both "$status" $?
    status=$?
done
cat "$logs"/*
exit "$status"
