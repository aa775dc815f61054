#!/usr/bin/env bash
# Makes a Debian package of a wheel: package.sh WHEEL PYTHON FOLDER. PYTHON has to be the one of Debian's own package,
# which the package then depends on in this minor version. No root is needed. DEBFULLNAME and DEBEMAIL say who maintains
# it (devscripts), DEB_VERSION its version, and DEB_COMPRESSION how it is packed (-Z of dpkg-deb(1)).
set -euo pipefail
umask 022
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
wheel=$(realpath "$1") python=$2 out=$3
work=build/deb
root=$PWD/$work/root
export LC_ALL=C

command -v dpkg-shlibdeps >/dev/null || { echo "dpkg-dev is missing: apt-get install dpkg-dev" >&2; exit 1; }
version=$(sed -nE 's/^__version__ = "(.*)"/\1/p' "$here/../balancer/__init__.py")
released=$(sed -nE 's/^RELEASED = "(.*)"/\1/p' "$here/../balancer/__init__.py")
stamp=$(date -u -d "$released" +%s)
# Between two releases each commit is newer than the one before, for apt as well.
if commit=$(git -C "$here" log -1 --format='%ct %h' 2>/dev/null); then
    stamp=${commit% *}
    version+=+git$(date -u -d "@$stamp" +%Y%m%d.%H%M%S).${commit#* }
fi
version=${DEB_VERSION:-$version}
export SOURCE_DATE_EPOCH=$stamp

rm -rf "$work"
mkdir -p "$work/debian" "$root/DEBIAN" "$out"
PREFIX=/usr "$here/install.sh" files "$wheel" "$python" "$root"

# Debian's Python alone is there on every machine, in this minor version alone.
environment=$root/usr/lib/pybalancer/packaged
minor=$("$environment/bin/python" -c 'import sys; print(sys.version_info.minor)')
for link in "$environment"/bin/python*; do
    ln -sfn "../../../../bin/python3.$minor" "$link"
done

doc=$root/usr/share/doc/pybalancer
install -d "$doc/examples" "$root/etc/pybalancer" "$root/usr/share/lintian/overrides"
install -m 0640 "$here/../config/minimal.yaml" "$root/etc/pybalancer/balancer.yaml"
chmod 0750 "$root/etc/pybalancer"
for example in full.yaml cluster.yaml grafana prometheus; do
    cp -r "$here/../config/$example" "$doc/examples"
done
install -D -m 0755 "$here/debian/needrestart" "$root/etc/needrestart/restart.d/pybalancer.service"
install -D -m 0644 "$here/debian/needrestart.conf" "$root/etc/needrestart/conf.d/pybalancer.conf"
install -m 0644 "$here/debian/lintian-overrides" "$root/usr/share/lintian/overrides/pybalancer"
gzip -9nc "$here/../README.md" >"$doc/README.md.gz"
{
    printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\n'
    sed -nE 's/^(Copyright)( \(c\))? (.*)/\1: \3/p' "$here/../LICENSE"
    printf 'License: Expat\n'
    sed -e '1,/^Copyright/d' -e '/./,$!d' -e 's/^$/./' -e 's/^/ /' "$here/../LICENSE"
    printf '\nFiles: usr/lib/pybalancer/packaged/lib/*\nCopyright: the authors of each library\nLicense: other\n'
    printf ' What each may be used for is in its folder NAME.dist-info there.\n'
} >"$doc/copyright"
maintainer="${DEBFULLNAME:-pybalancer} <${DEBEMAIL:-nobody@example.org}>"
{
    printf 'pybalancer (%s) unstable; urgency=medium\n\n  * Made from its sources.\n\n' "$version"
    printf ' -- %s  %s\n' "$maintainer" "$(date -u -R -d "@$stamp")"
} | gzip -9nc >"$doc/changelog.gz"

# What libraries of the system the compiled ones want, as dpkg-shlibdeps(1) finds it.
printf 'Source: pybalancer\n\nPackage: pybalancer\nArchitecture: any\n' >"$work/debian/control"
mapfile -d '' objects < <(find "$root/usr/lib/pybalancer" -name '*.so*' -type f -print0)
(cd "$work" && dpkg-shlibdeps --warnings=0 --ignore-missing-info -Tsubstvars "${objects[@]/#/-e}")
shared=$(sed -nE 's/^shlibs:Depends=//p' "$work/substvars")

sed -e "s|@VERSION@|$version|" -e "s|@MAINTAINER@|$maintainer|" -e "s|@DEPENDS@|$shared|" \
    -e "s|@ARCHITECTURE@|$(dpkg --print-architecture)|" -e "s|@SIZE@|$(du -k -s --apparent-size "$root" | cut -f1)|" \
    -e "s|@MINOR@|$minor|g" -e "s|@NEXT@|$((minor + 1))|g" "$here/debian/control" >"$root/DEBIAN/control"
(cd "$root" && find etc -type f -printf '/%p\n' | sort) >"$root/DEBIAN/conffiles"
for script in postinst prerm postrm; do
    sed -e "/^#SETUP#$/{r $here/setup.sh" -e 'd}' "$here/debian/$script" >"$root/DEBIAN/$script"
    chmod 0755 "$root/DEBIAN/$script"
done
(cd "$root" && find . -path ./DEBIAN -prune -o -type f ! -path ./etc/\* -printf '%P\0' | sort -z | xargs -0 md5sum) \
    >"$root/DEBIAN/md5sums"
chmod -R go-w,a+rX "$root/usr"
dpkg-deb --root-owner-group "-Z${DEB_COMPRESSION:-xz}" --build "$root" "$out" >/dev/null
echo "$out/pybalancer_${version}_$(dpkg --print-architecture).deb"
