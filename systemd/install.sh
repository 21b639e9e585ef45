#!/bin/sh
# Installs rb-agent and rbctl from built files, or removes them. Needs no network; running it again is harmless.
set -eu

usage() {
    cat <<'USAGE'
usage: install.sh [--root DIR] [--from DIR]
       install.sh [--root DIR] --uninstall [--purge]

  --root DIR   install below DIR instead of / (an image, a container); systemd is not told
  --from DIR   take the binaries from DIR (default: target/release, else target/debug)
  --uninstall  remove what was installed; configuration and state stay
  --purge      with --uninstall: remove configuration, keys, history and state as well
USAGE
}

die() { echo "install.sh: $1" >&2; exit "${2:-1}"; }

root=""; from=""; uninstall=no; purge=no
while [ $# -gt 0 ]; do
    case $1 in
        --root) [ $# -ge 2 ] || die "--root needs a directory" 64; root=${2%/}; shift ;;
        --from) [ $# -ge 2 ] || die "--from needs a directory" 64; from=$2; shift ;;
        --uninstall) uninstall=yes ;;
        --purge) purge=yes ;;
        -h|--help) usage; exit 0 ;;
        *) usage >&2; die "unknown option \`$1\`" 64 ;;
    esac
    shift
done
[ "$purge" = no ] || [ "$uninstall" = yes ] || die "--purge goes with --uninstall" 64

here=$(cd "$(dirname "$0")" && pwd)
bash_completions=$root/usr/share/bash-completion/completions
zsh_completions=$root/usr/share/zsh/vendor-completions
fish_completions=$root/usr/share/fish/vendor_completions.d

# Tells the running systemd; silent below another root, and where systemd does not run.
running() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

manual_pages() {
    for section in 1 5 8; do
        find "$root/usr/share/man/man$section" -maxdepth 1 \
            \( -name "rbctl.$section" -o -name "rbctl-*.$section" -o -name "rb-agent*.$section" \) "$@" 2>/dev/null || true
    done
}

remove() {
    if running; then
        systemctl disable --now rb-agent.service 2>/dev/null || true
    fi
    rm -f "$root/usr/bin/rb-agent" "$root/usr/bin/rbctl" \
        "$root/usr/lib/systemd/system/rb-agent.service" \
        "$root/usr/lib/systemd/system/rb-revert@.service" "$root/usr/lib/systemd/system/rb-revert.service" \
        "$root/usr/lib/systemd/system/basic.target.wants/rb-revert.service" \
        "$root/usr/lib/systemd/catalog/rollback.catalog" \
        "$root/usr/lib/sysusers.d/rollback.conf" "$root/usr/lib/tmpfiles.d/rollback.conf" \
        "$bash_completions/rbctl" "$zsh_completions/_rbctl" "$fish_completions/rbctl.fish"
    rm -rf "$root/usr/share/doc/rollback"
    manual_pages -delete
    if running; then
        systemctl daemon-reload
        journalctl --update-catalog
    fi
    if [ "$purge" = yes ]; then
        rm -rf "$root/etc/rollback" "$root/etc/systemd/system/rb-agent.service.d" \
            "$root/var/lib/rollback" "$root/run/rollback"
        echo "removed, with configuration, keys, history and state"
    else
        echo "removed; /etc/rollback and /var/lib/rollback stay (--purge removes them)"
    fi
}

binaries() {
    if [ -n "$from" ]; then
        [ -x "$from/rb-agent" ] || die "there is no rb-agent in $from"
        return
    fi
    for profile in release debug; do
        from=$here/../target/$profile
        [ ! -x "$from/rb-agent" ] || return 0
    done
    die "nothing is built: run \`cargo build --release\`, or name the directory with --from"
}

# Writes the output of a command into a file, or leaves the file alone when the command fails.
write() {
    file=$1; shift
    mkdir -p "${file%/*}"
    if "$@" >"$file.new" 2>/dev/null; then
        chmod 0644 "$file.new"
        mv "$file.new" "$file"
    else
        rm -f "$file.new"
        echo "install.sh: \`$*\` failed, $file is left out" >&2
    fi
}

install_client() {
    install -D -m 0755 "$from/rbctl" "$root/usr/bin/rbctl"
    write "$bash_completions/rbctl" "$from/rbctl" completion bash
    write "$zsh_completions/_rbctl" "$from/rbctl" completion zsh
    write "$fish_completions/rbctl.fish" "$from/rbctl" completion fish
    pages=$(mktemp -d)
    if "$from/rbctl" man "$pages" >/dev/null 2>&1; then
        for page in "$pages"/*.[158]; do
            [ ! -e "$page" ] || install -D -m 0644 "$page" "$root/usr/share/man/man${page##*.}/${page##*/}"
        done
    else
        echo "install.sh: \`rbctl man\` failed, the manual pages are left out" >&2
    fi
    rm -rf "$pages"
}

put() {
    binaries
    umask 022
    # `install` replaces a running program: it removes the old file and does not write into it.
    install -D -m 0755 "$from/rb-agent" "$root/usr/bin/rb-agent"
    if [ -x "$from/rbctl" ]; then
        install_client
    fi
    for page in rb-agent.8 rb-agent.toml.5; do
        install -D -m 0644 "$here/man/$page" "$root/usr/share/man/man${page##*.}/$page"
    done
    for unit in rb-agent.service rb-revert@.service rb-revert.service; do
        install -D -m 0644 "$here/$unit" "$root/usr/lib/systemd/system/$unit"
    done
    # Nobody has to enable it: without armed switches it does nothing.
    install -d -m 0755 "$root/usr/lib/systemd/system/basic.target.wants"
    ln -sfn ../rb-revert.service "$root/usr/lib/systemd/system/basic.target.wants/rb-revert.service"
    install -D -m 0644 "$here/rollback.sysusers" "$root/usr/lib/sysusers.d/rollback.conf"
    install -D -m 0644 "$here/rollback.tmpfiles" "$root/usr/lib/tmpfiles.d/rollback.conf"
    if [ -f "$here/rollback.catalog" ]; then
        install -D -m 0644 "$here/rollback.catalog" "$root/usr/lib/systemd/catalog/rollback.catalog"
    fi
    for example in agent.toml components.d/web.toml components.d/backups.toml components.d/rules.toml; do
        install -D -m 0644 "$here/examples/$example" "$root/usr/share/doc/rollback/examples/$example"
    done
    for page in install configuration cli runbook; do
        install -D -m 0644 "$here/../docs/operations/$page.md" "$root/usr/share/doc/rollback/$page.md"
    done
    install -d -m 0755 "$root/etc/rollback" "$root/etc/rollback/agent.d" "$root/etc/rollback/components.d"
    install -d -m 0700 "$root/etc/rollback/pki" "$root/var/lib/rollback"
    if running; then
        systemd-sysusers rollback.conf
        systemd-tmpfiles --create rollback.conf
        journalctl --update-catalog
        systemctl daemon-reload
    fi
    echo "installed from $from"
    echo "next: describe your services in /etc/rollback/components.d/ (examples: /usr/share/doc/rollback/examples),"
    echo "      then \`rb-agent check\` and \`systemctl enable --now rb-agent.service\`"
}

if [ "$uninstall" = yes ]; then remove; else put; fi
