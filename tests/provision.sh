#!/usr/bin/env bash
# Sees to it that the programs which the tests start are there. As root on Debian and Ubuntu it installs what is
# missing, and leaves no service of those packages running or enabled; otherwise it says in one line what to install.
# What was installed before is not touched. Arguments: packages that are wanted besides.
set -euo pipefail
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin LC_ALL=C

# package, and the program or file that shows it is there
needed=(
    'nginx               nginx'
    'apache2             apache2'
    'libapache2-mod-php  /usr/lib/apache2/modules/libphp*.so'
    'apache2-utils       ab'
    'bind9               named'
    'bind9-dnsutils      dig'
    'dnsperf             dnsperf'
    'haproxy             haproxy'
    'curl                curl'
    'faketime            /usr/lib/*/faketime/libfaketime.so.1'
    'gcc                 gcc'
    'dpkg-dev            dpkg-shlibdeps'
    'python3-dev         /usr/include/python3*/Python.h'
    'dnsmasq-base        dnsmasq'
    'udhcpc              udhcpc'
    'iproute2            ip'
    'iputils-ping        ping'
    'nftables            nft'
    'openssl             openssl'
    'procps              pgrep'
    'passwd              useradd'
    'ruby                ruby'
    'keepalived          keepalived'
    'util-linux          setpriv'
    'hatop               hatop'
    'tmux                tmux'
    'zsh                 zsh'
    'prometheus-haproxy-exporter prometheus-haproxy-exporter'
    'chromium            chromium'
    'systemd             systemd-analyze'
    'prometheus          prometheus'
    'wrk                 wrk'
)

missing=()
for line in "${needed[@]}"; do
    read -r package proof <<<"$line"
    case $proof in
        /*) compgen -G "$proof" >/dev/null || missing+=("$package") ;;
        *) command -v "$proof" >/dev/null || missing+=("$package") ;;
    esac
done
if ! python3 -c 'import ensurepip' 2>/dev/null; then
    missing+=(python3-venv)
fi
for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed' || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "missing are what Debian has in the packages: ${missing[*]}" >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "as root, run: apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
fi

# A service is started by its package's scripts unless policy-rc.d says no (exit 101, invoke-rc.d(8)).
guard=/usr/sbin/policy-rc.d
kept=$guard.before-pybalancer-tests
work=$(mktemp -d)
restore() {
    rm -rf "$work"
    if [ -e "$kept" ]; then
        mv -f "$kept" "$guard"
    elif [ -e "$guard" ] && grep -q 'pybalancer tests' "$guard"; then
        rm -f "$guard"
    fi
}
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Left by a run that was killed: what is kept is the original.
if [ -e "$guard" ] && [ ! -e "$kept" ] && ! grep -q 'pybalancer tests' "$guard"; then
    mv "$guard" "$kept"
fi
printf '#!/bin/sh\n# pybalancer tests: no service starts while their packages are installed\nexit 101\n' >"$guard"
chmod 755 "$guard"

installed() { dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' | sed -n 's/^ii *//p' | sort -u; }

echo "installing ${missing[*]}"
installed >"$work/before"
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update && apt-get install -y --no-install-recommends --no-upgrade "${missing[@]}"; } >"$work/log" 2>&1
then
    tail -n 5 "$work/log" >&2
    echo "apt-get could not install ${missing[*]}" >&2
    failed=1
fi
installed >"$work/after"

# Enabled by their packages: systemd's units, which need no running systemd to be disabled, and the rc?.d links.
comm -13 "$work/before" "$work/after" | while read -r package; do
    dpkg-query -L "$package" | while read -r file; do
        case $file in
            /lib/systemd/system/*@.* | /usr/lib/systemd/system/*@.*) ;;
            /lib/systemd/system/*.service | /lib/systemd/system/*.timer | /lib/systemd/system/*.socket | \
                /usr/lib/systemd/system/*.service | /usr/lib/systemd/system/*.timer | /usr/lib/systemd/system/*.socket)
                ! command -v systemctl >/dev/null || systemctl disable --quiet "${file##*/}" </dev/null 2>/dev/null || true
                ;;
            /etc/init.d/*)
                ! command -v update-rc.d >/dev/null || update-rc.d "${file##*/}" disable </dev/null >/dev/null 2>&1 || true
                ;;
        esac
    done
done
exit "${failed:-0}"
