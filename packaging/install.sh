#!/bin/sh
# Installs what lies beside it, without a package manager; again, to upgrade.
#
#   ./install.sh [--root DIR]             install or upgrade
#   ./install.sh --remove [--root DIR]    take the programs away; configuration and state stay
#   ./install.sh --purge [--root DIR]     take configuration and state away, too
#
# Every file is written beside its place and renamed, so that one that runs is no obstacle, and the
# program that has it open goes on with the old one.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
list=/usr/lib/netspace/files
settings="/etc/netspace/node.yaml /etc/netspace/server.yaml /etc/netspace/ctl.yaml"
settings="$settings /etc/netspace/federation-server.yaml /etc/netspace/federation-agent.yaml"
settings="$settings /etc/cni/net.d/10-netspace.conflist"
units="netspace-agent.socket netspace-agent.service"
others="netspace-server.service netspace-federation.service netspace-federation-agent.service"
root=
action=install

usage() {
    echo "usage: $0 [--remove | --purge] [--root DIR]" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    case "$1" in
        --root)
            [ $# -ge 2 ] || usage
            root=${2%/}
            shift
            ;;
        --remove) action=remove ;;
        --purge) action=purge ;;
        *) usage ;;
    esac
    shift
done

# The units are this machine's only where the files are.
manages_units() {
    [ -z "$root" ] && [ -d /run/systemd/system ]
}

take_away() { # a file; then its folder and those above, where they are empty
    rm -f -- "$root$1"
    folder=${1%/*}
    while case "$folder" in */netspace | */netspace/* | */netspace-plugin*) true ;; *) false ;; esac; do
        rmdir -- "$root$folder" 2>/dev/null || break
        folder=${folder%/*}
    done
}

put() { # a file of ours, in its place
    [ -d "$root${1%/*}" ] || mkdir -p -- "$root${1%/*}"
    cp -P --preserve=mode,timestamps -- "$here/root$1" "$root$1.new"
    mv -f -T -- "$root$1.new" "$root$1"
}

install_files() {
    fresh=yes
    [ ! -e "$root$list" ] || fresh=no
    old=
    [ "$fresh" = yes ] || old=$(cat -- "$root$list")
    new=$(cd -- "$here/root" && find . \( -type f -o -type l \) | sed 's/^\.//' | LC_ALL=C sort)
    for file in $new; do
        case " $settings " in
            *" $file "*)
                if [ -e "$root$file" ]; then
                    cmp -s -- "$here/root$file" "$root$file" ||
                        cp -- "$here/root$file" "$root$file.dist"
                    continue
                fi
                ;;
        esac
        put "$file"
    done
    for file in $old; do
        case "
$new
" in
            *"
$file
"*) ;;
            *) take_away "$file" ;;
        esac
    done
    mkdir -p -- "$root${list%/*}"
    echo "$new" >"$root$list.new"
    mv -f -- "$root$list.new" "$root$list"
    if manages_units; then
        systemctl daemon-reload
        if [ "$fresh" = yes ]; then
            # shellcheck disable=SC2086 # a list of words
            systemctl enable --now $units
        else
            # shellcheck disable=SC2086 # a list of words; charon goes on as it is
            systemctl try-restart netspace-agent.service $others
        fi
    fi
}

remove_files() {
    [ -e "$root$list" ] || {
        echo "$0: nothing is installed: there is no $root$list" >&2
        exit 1
    }
    if manages_units; then
        # Nobody could take tunnels, policies and routes away later.
        if systemctl --quiet is-active netspace-federation-agent.service; then
            systemctl stop netspace-federation-agent.service || true
            /usr/sbin/netspace-federation agent leave || true
        fi
        # shellcheck disable=SC2086 # a list of words
        systemctl disable --now $units $others || true
        systemctl stop netspace-charon.service || true
    fi
    while read -r file; do
        case " $settings " in
            *" $file "*) ;;
            *) take_away "$file" ;;
        esac
    done <"$root$list"
    take_away "$list"
    rm -rf -- "$root/run/netspace"
    if manages_units; then
        systemctl daemon-reload
    fi
}

case "$action" in
    install) install_files ;;
    remove) remove_files ;;
    purge)
        [ ! -e "$root$list" ] || remove_files
        for file in $settings; do
            rm -f -- "$root$file.dist"
            take_away "$file"
        done
        rm -rf -- "$root/var/lib/netspace"
        ;;
esac
