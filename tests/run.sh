#!/usr/bin/env bash
# Runs the tests with the Python given first; all else is for pytest. In lanes at once, since most of what runs the
# daemon, or has network namespaces to itself, waits for timers. What can be compiled is compiled meanwhile, and tested
# again then. What the other lanes print comes after the first one's. What failed while the lanes had to share the
# machine is told, and tried once more when it is quiet, unless it is more than a few: what fails then has failed.
# Exit status: that of a lane that failed.
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
few=3

# Of two exit statuses the one that counts: a failure, else success; pytest(1): 5 means that none was selected.
both() {
    case $1 in
        5) return "$2" ;;
        0) return $(($2 == 5 ? 0 : $2)) ;;
        *) return "$1" ;;
    esac
}
# Tests of a lane.
tests() {
    local lane=$1
    shift
    "$python" -m pytest -o "cache_dir=$logs/$lane.cache" "$@"
}
networks() {
    tests networks "${networks[@]}" "$@"
}
daemon() {
    "${MAKE:-make}" --no-print-directory compiled
    local made=$?
    tests daemon "${daemon[@]}" "$@"
    local status=$?
    return $((made ? made : status))
}
others() {
    local apart=("${networks[@]}" "${daemon[@]}")
    tests others "${apart[@]/#/--ignore=}" "$@"
}
# By then it has long been made; where it could not be, that lane has failed.
again() {
    [ -e "$compiled/.made" ] || return 5
    echo "Again, compiled:"
    PYBALANCER_COMPILED=1 PYTHONPATH=$compiled tests again -o "pythonpath=$compiled ." "${again[@]}" "$@"
}
# A lane that ended with this status, and arguments for pytest.
quietly() {
    local lane=$1 status=$2 failed
    shift 2
    [ "$status" -eq 1 ] || return "$status"
    failed=$(grep -c '": true' "$logs/$lane.cache/v/cache/lastfailed")
    [ "$failed" -gt 0 ] && [ "$failed" -le "$few" ] || return "$status"
    echo "UNSTEADY: $failed failed beside the other lanes, once more with the machine to itself:"
    "$lane" --last-failed "$@"
}

logs=$(mktemp -d)
beside=(networks daemon)
lanes=()
# Each a process group of its own, so that all of it can be ended.
set -m
for lane in "${beside[@]}"; do
    "$lane" "$@" >"$logs/$lane.log" 2>&1 &
    lanes+=("$!")
done
set +m
trap 'kill -INT -- "${lanes[@]/#/-}" 2>/dev/null; wait "${lanes[@]}"; rm -rf "$logs"' EXIT
trap 'exit 130' INT TERM

declare -A ended
others "$@"
ended[others]=$?
again "$@"
ended[again]=$?
for i in "${!lanes[@]}"; do
    wait "${lanes[i]}"
    ended[${beside[i]}]=$?
done
cat "$logs"/*.log
status=5
for lane in others again "${beside[@]}"; do
    quietly "$lane" "${ended[$lane]}" "$@"
    both "$status" $?
    status=$?
done
exit "$status"
