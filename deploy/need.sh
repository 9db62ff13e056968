#!/usr/bin/env bash
# need.sh COMMAND:DEBIAN_PACKAGE...
# Installs the packages of those commands that are missing; where that cannot be, says what is missing and fails.
set -euo pipefail
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

commands=() packages=()
for pair in "$@"; do
    if ! command -v "${pair%%:*}" >/dev/null; then
        commands+=("${pair%%:*}")
        packages+=("${pair#*:}")
    fi
done
[ ${#packages[@]} -gt 0 ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing: ${commands[*]} (on Debian: apt-get install ${packages[*]}, as root)" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# What is installed here is wanted as a program, not as a service that starts at once (invoke-rc.d(8)).
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
apt-get -qq update
apt-get -qq install --yes --no-install-recommends "${packages[@]}"
