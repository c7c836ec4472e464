#!/usr/bin/env bash
# Installs what `make test-cluster` needs beside Python packages: sshd and rsync for `ray up`, Chromium for a screenshot.
set -euo pipefail
packages=()
[ -x /usr/sbin/sshd ] || command -v sshd >/dev/null || packages+=(openssh-server)
command -v rsync >/dev/null || packages+=(rsync)
command -v chromium >/dev/null || packages+=(chromium)
[ ${#packages[@]} -eq 0 ] && exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
    echo "Please install ${packages[*]}: this script can do it on Debian or Ubuntu, as root." >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# sshd must not start as a service: the tests run one of their own on the loopback interface.
apt-get update -qq
RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
