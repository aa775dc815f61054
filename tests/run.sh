#!/usr/bin/env bash
# Runs the tests with the Python given first; all else is for pytest. In two halves at once: what has network namespaces
# to itself mostly waits for timers there, and meets nothing of the others. Exit status: that of the half that failed.
set -uo pipefail
python=$1
shift

for argument in "$@"; do
    # Only some are wanted.
    [ -e "${argument%%::*}" ] && exec "$python" -m pytest "$@"
done

apart=(tests/lab tests/vrrp tests/kernel)
log=$(mktemp)
"$python" -m pytest -p no:cacheprovider "${apart[@]}" "$@" >"$log" 2>&1 &
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
