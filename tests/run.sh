#!/usr/bin/env bash
# Runs the tests with the Python given first; all else is for pytest. In two halves at once: what has network namespaces
# to itself mostly waits for timers there, and meets nothing of the others. Where `make compiled` has made a compiled
# package, what is compiled is then tested again, compiled. Exit status: that of a part that failed.
set -uo pipefail
python=$1
shift

for argument in "$@"; do
    # Only some are wanted.
    [ -e "${argument%%::*}" ] && exec "$python" -m pytest "$@"
done

apart=(tests/lab tests/vrrp tests/kernel)
again=(
    tests/wire/test_{fields,framing,http1,proxyproto,rewrite}.py tests/algorithms
    tests/pool/test_{backend,facts,server,sticky,waiting}.py
    tests/proxy/test_{exchange,filters,http,isolation,listen,origin,replies,route,sources,stream}.py
    tests/proxy/test_{strictness,sweep,tcp,upstream}.py tests/e2e/test_http.py
)
compiled=$PWD/build/compiled
log=$(mktemp)
apart() {
    "$python" -m pytest -p no:cacheprovider "${apart[@]}" "$@"
    local one=$? two=5
    if [ -e "$compiled/.made" ]; then
        echo "Again, compiled:"
        PYBALANCER_COMPILED=1 PYTHONPATH=$compiled "$python" -m pytest -p no:cacheprovider \
            -o "pythonpath=$compiled ." "${again[@]}" "$@"
        two=$?
    fi
    [ "$one" -eq 5 ] && one=$two
    [ "$two" -eq 5 ] && two=0
    return $((one ? one : two))
}
apart "$@" >"$log" 2>&1 &
other=$!
trap 'kill "$other" 2>/dev/null; wait "$other"; rm -f "$log"' EXIT
trap 'exit 130' INT TERM

"$python" -m pytest "${apart[@]/#/--ignore=}" "$@"
one=$?
wait "$other"
two=$?
cat "$log"
# pytest(1): 5 means that none was selected.
[ "$one" -eq 5 ] && one=$two
[ "$two" -eq 5 ] && two=$one
exit $((one ? one : two))
