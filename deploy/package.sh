#!/usr/bin/env bash
# package.sh BINARY VERSION TARGET DIRECTORY
# Puts the static binary and what belongs to it into an archive and, where a tool for it is there, an image.
set -euo pipefail

binary=$1 version=$2 target=$3 directory=$4
name=vms-agent-$version-$target

if ldd "$binary" 2>/dev/null | grep -q '=>'; then
    echo "$binary is not static" >&2
    exit 1
fi
rm -rf "${directory:?}"
mkdir -p "$directory/$name" "$directory/image"
install -m 755 "$binary" "$directory/$name/vms-agent"
install -m 644 LICENSE README.md deploy/vms-agent.service "$directory/$name"
install -m 644 config/config.example.yaml "$directory/$name/config.yaml"

# The same commit gives the same archive: names in order, nobody's user, the commit's time.
time=$(git log -1 --format=%ct 2>/dev/null || echo 0)
tar --create --directory "$directory" --sort name --owner 0 --group 0 --numeric-owner --mtime "@$time" "$name" |
    gzip --no-name >"$directory/$name.tar.gz"
(cd "$directory" && sha256sum "$name.tar.gz" | tee "$name.tar.gz.sha256")

# Mozilla's roots as Debian ships them, without those that this machine's administrator added.
cat /usr/share/ca-certificates/mozilla/*.crt >"$directory/image/ca-certificates.crt"
install -m 755 "$binary" "$directory/image/vms-agent"
install -m 644 LICENSE "$directory/image/LICENSE"
# The spool's directory, in an archive because builders keep owner and mode of what is in one: the image's user's, and open to
# whichever other user the container is run as. The agent makes a directory of its own in it.
mkdir -p "$directory/state/var/lib/vms-agent"
state=(--file "$directory/image/state.tar" --directory "$directory/state" --no-recursion --numeric-owner --mtime "@$time")
tar --create "${state[@]}" --owner 0 --group 0 --mode 755 var var/lib
tar --append "${state[@]}" --owner 65532 --group 65532 --mode 1777 var/lib/vms-agent
rm -r "$directory/state"
for builder in podman buildah docker; do
    if command -v "$builder" >/dev/null; then
        # Images in the OCI format have no HEALTHCHECK; docker builds its own format anyway.
        BUILDAH_FORMAT=docker "$builder" build --file deploy/Containerfile --tag "vms-agent:$version" "$directory/image"
        exit
    fi
done
echo 'no image: podman, buildah or docker would make one' >&2
