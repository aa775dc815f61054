# What is done to the machine beside putting files there, by `make install` (install.sh) and by the maintainer scripts of
# the Debian package, which have it in them. sysusers.d(5)'s file is $users. Each version has a folder of its own in $home,
# and `current` there leads to the one that is started: who runs an older one finds all of it, and can go back to it.
# shellcheck shell=sh disable=SC2034,SC2154
service=pybalancer.service
config=/etc/pybalancer
state=/var/lib/pybalancer
logs=/var/log/pybalancer
runtime=/run/pybalancer

runs_systemd() { [ -d /run/systemd/system ]; }

# The name of a folder that no version has had.
new_version() { echo "$home/$(date -u +%Y%m%dT%H%M%S.%N)"; }

# The environment $1 says in some of its files that it is at $2; it is to be used at $3.
say_where() {
    grep -rlIZ -F "$2" "$1" | xargs -0 -r sed -i "s|$2|$3|g"
}

# $1 is started from now on. There is no moment without one: somebody may be started at any time.
lead_to() {
    ln -sfn "$1" "$home/.current"
    mv -fT "$home/.current" "$home/current"
}

# All versions but $1 that nobody runs: each has libraries, which whoever runs it has in its memory.
forget_unused() {
    for old in "$home"/[0-9]*/; do
        old=${old%/}
        if [ -d "$old" ] && [ "$old" != "$1" ] && ! grep -qsF "$old/" /proc/[0-9]*/maps; then
            rm -rf "$old"
        fi
    done
}

make_user() {
    if getent passwd pybalancer >/dev/null; then
        return 0
    fi
    if command -v systemd-sysusers >/dev/null; then
        systemd-sysusers "$users"
    else
        useradd --system --user-group --no-create-home --home-dir "$state" --shell /usr/sbin/nologin pybalancer
    fi
}

# Passwords and keys are for it and for root only. Rights that somebody has given the file since are left.
make_folders() {
    install -d -m 0750 -o root -g pybalancer "$config"
    install -d -m 0700 -o pybalancer -g pybalancer "$state"
    install -d -m 0750 -o pybalancer -g pybalancer "$logs"
}

own_sample() {
    chown root:pybalancer "$config/balancer.yaml"
    chmod 0640 "$config/balancer.yaml"
}

remove_everything() {
    rm -rf "$config" "$state" "$logs" "$runtime"
    if getent passwd pybalancer >/dev/null; then
        userdel pybalancer
    fi
}
