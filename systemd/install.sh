#!/usr/bin/env bash
# Puts pybalancer in place as a service of this machine, or takes it away:
#   install    a wheel, given second, in an environment of its own under PREFIX/lib; the command, the unit, the user, and
#              a configuration to begin with if there is none. Over an older one: what runs goes on as it is
#   files      only the files, under a folder given fourth, with an environment that is to be a version of its own once it
#              is installed
#   uninstall  ends the service and removes all that; configuration and state stay, and the user they belong to
#   purge      removes those as well
set -euo pipefail
umask 022
export PATH=$PATH:/usr/sbin:/sbin
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
prefix=${PREFIX:-/usr/local}
home=$prefix/lib/pybalancer
command=$prefix/bin/pybalancer
units=$prefix/lib/systemd/system
users=$prefix/lib/sysusers.d/pybalancer.conf
files=$prefix/lib/tmpfiles.d/pybalancer.conf
manual=$prefix/share/man/man1/pybalancer.1.gz
keys=$prefix/share/man/man5/pybalancer.yaml.5.gz
bash=$prefix/share/bash-completion/completions/pybalancer
fish=$prefix/share/fish/vendor_completions.d/pybalancer.fish
# Debian's zsh looks there for what packages bring.
zsh=$prefix/share/zsh/$([ "$prefix" = /usr ] && echo vendor-completions || echo site-functions)/_pybalancer
# shellcheck source=systemd/setup.sh
. "$here/setup.sh"
placed=("$command" "$units/$service" "$users" "$files" "$manual" "$keys" "$bash" "$zsh" "$fish")

needs_root() {
    [ "$(id -u)" = 0 ] || { echo "a service needs root: sudo make $1" >&2; exit 3; }
}

# An environment with the wheel $1 for the Python $2, of which what is installed is a copy.
made=$(realpath -m "$here/../build/environment")
make_environment() {
    local wheel=$1 python=$2 of
    of=$(cat "$wheel" "$here/../constraints.txt" <("$python" -c 'import sys; print(sys.version, sys.executable)') | sha256sum)
    if [ "$(cat "$made/of" 2>/dev/null)" = "$of" ]; then
        return 0
    fi
    rm -rf "$made"
    "$python" -m venv --without-pip "$made"
    "$here/../.venv/bin/python" -m pip --python "$made/bin/python" --disable-pip-version-check install -qq --no-compile \
        --constraint "$here/../constraints.txt" "$wheel"
    # For the service alone: nobody activates it, and commands of libraries are not ours to give.
    find "$made/bin" ! -type d ! -name 'python*' ! -name pybalancer -delete
    rm -rf "$made/include"
    # Where the wheel lay is nothing to anybody later.
    rm -f "$made"/lib/*/site-packages/pybalancerd-*.dist-info/direct_url.json
    sed -i '/direct_url\.json,/d' "$made"/lib/*/site-packages/pybalancerd-*.dist-info/RECORD
    # Nobody writes there later, so that no source has to be looked at again.
    "$made/bin/python" -m compileall -q -j 0 --invalidation-mode unchecked-hash -s "$made" -p "$home" "$made/lib"
    echo "$of" >"$made/of"
}

# A copy of it at $1, for use at $2.
put_environment() {
    mkdir -p "$(dirname "$1")"
    cp -a --reflink=auto "$made" "$1"
    rm "$1/of"
    say_where "$1" "$made" "$2"
}

# The files beside it under $1, made by the environment $2 there.
put_files() {
    local root=$1 env=$2 path
    # Its script has the name of an interpreter that is not there yet. -I: not what is in the current folder.
    local us=("$root$env/bin/python" -I -m balancer)
    for path in "${placed[@]}"; do
        mkdir -p "$(dirname "$root$path")"
    done
    ln -sfn ../lib/pybalancer/current/bin/pybalancer "$root$command"
    sed "s|/usr/bin/pybalancer|$command|" "$here/pybalancer.service" >"$root$units/$service"
    cp "$here/pybalancer.sysusers" "$root$users"
    cp "$here/pybalancer.tmpfiles" "$root$files"
    "${us[@]}" manual | gzip -9n >"$root$manual"
    "${us[@]}" manual keys | gzip -9n >"$root$keys"
    "${us[@]}" completion bash >"$root$bash"
    "${us[@]}" completion zsh >"$root$zsh"
    "${us[@]}" completion fish >"$root$fish"
}

install_() {
    local wheel=$1 python=$2
    needs_root install
    new=$(new_version)
    mkdir -p "$home"
    trap 'rm -rf "$new"' EXIT
    echo "installing into $new"
    make_environment "$wheel" "$python"
    put_environment "$new" "$new"
    "$new/bin/pybalancer" --version
    lead_to "$new"
    trap - EXIT
    forget_unused "$new"
    put_files "" "$home/current"
    make_user
    make_folders
    if [ ! -e "$config/balancer.yaml" ]; then
        install -m 0640 -o root -g pybalancer "$here/../config/minimal.yaml" "$config/balancer.yaml"
    fi
    runs_systemd && systemctl daemon-reload
    echo "installed: $command, $units/$service"
    if runs_systemd && systemctl -q is-active pybalancer; then
        echo "the one before still runs; to change over: $command upgrade"
    else
        echo "edit $config/balancer.yaml, then: systemctl enable --now pybalancer"
    fi
}

uninstall() {
    needs_root uninstall
    if runs_systemd && [ -e "$units/$service" ]; then
        systemctl disable --now pybalancer
    fi
    rm -rf "$home" "${placed[@]}"
    runs_systemd && systemctl daemon-reload
    echo "removed; left: $config, $state and $logs (make purge removes them as well)"
}

purge() {
    needs_root purge
    uninstall >/dev/null
    remove_everything
    echo "removed: pybalancer, its user, $config, $state and $logs"
}

case ${1:-} in
    install) install_ "$(realpath "$2")" "$3" ;;
    files)
        make_environment "$(realpath "$2")" "$3"
        put_environment "$4$home/packaged" "$home/packaged"
        put_files "$4" "$home/packaged"
        ;;
    uninstall) uninstall ;;
    purge) purge ;;
    *)
        echo "usage: install.sh install WHEEL PYTHON | files WHEEL PYTHON FOLDER | uninstall | purge" >&2
        exit 2
        ;;
esac
