# Sourced by the scripts beside it: where we are, how we speak, the OCI image layout.
# shellcheck shell=bash

repo=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
export repo

# Who calls a script through sudo wants it done as root, in places of its own: ces would take them for a researcher.
unset SUDO_UID SUDO_GID SUDO_USER SUDO_COMMAND

# Says what happens next, on stderr: data alone goes to stdout.
say() { printf '==> %s\n' "$*" >&2; }

# Ends with an error and a hint, as `ces` itself does.
die() {
    printf 'error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf 'hint: %s\n' "$2" >&2
    exit 1
}

# --- an OCI image layout, with tar, gzip or zstd, and sha256sum --------------------------------------------------------
# oci_begin DIR, then oci_layer DIR TAR COMPRESSION for each layer, then oci_tag DIR TAG CONFIG; several tags may follow.

oci_begin() {
    local dir=$1
    mkdir -p "$dir/blobs/sha256"
    printf '{"imageLayoutVersion":"1.0.0"}' >"$dir/oci-layout"
    oci_manifests='' # what index.json will list
    oci_scratch
}

# Starts another image in the same layout.
oci_scratch() {
    oci_diff_ids=''
    oci_layers=''
}

# oci_blob DIR FILE: moves FILE among the blobs and prints its descriptor's digest and size.
oci_blob() {
    local digest size
    digest=$(sha256sum "$2" | cut -d' ' -f1)
    size=$(stat -c %s "$2")
    mv -f "$2" "$1/blobs/sha256/$digest"
    chmod 0644 "$1/blobs/sha256/$digest"
    printf '"digest":"sha256:%s","size":%s' "$digest" "$size"
}

# oci_layer DIR TAR gzip|zstd|none: adds the layer TAR, which is left where it is.
oci_layer() {
    local dir=$1 tar=$2 kind=$3 blob=$1/blob.tmp type=application/vnd.oci.image.layer.v1.tar
    case $kind in
        gzip) gzip -6 -n <"$tar" >"$blob" && type+=+gzip ;;
        zstd) zstd -q -3 <"$tar" >"$blob" && type+=+zstd ;;
        none) cp "$tar" "$blob" ;;
        *) die "no such compression: $kind" "gzip, zstd or none" ;;
    esac
    oci_diff_ids+=${oci_diff_ids:+,}\"sha256:$(sha256sum "$tar" | cut -d' ' -f1)\"
    oci_layers+=${oci_layers:+,}"{\"mediaType\":\"$type\",$(oci_blob "$dir" "$blob")}"
}

# oci_tag DIR TAG CONFIG: writes config and manifest over the layers so far; CONFIG is the JSON of the image's `config`.
oci_tag() {
    local dir=$1 tag=$2 config=$3 tmp=$1/blob.tmp arch config_blob
    local image=application/vnd.oci.image
    case $(uname -m) in aarch64) arch=arm64 ;; *) arch=amd64 ;; esac
    printf '{"created":"1970-01-01T00:00:00Z","architecture":"%s","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":[%s]}}' \
        "$arch" "$config" "$oci_diff_ids" >"$tmp"
    config_blob=$(oci_blob "$dir" "$tmp")
    printf '{"schemaVersion":2,"mediaType":"%s.manifest.v1+json","config":{"mediaType":"%s.config.v1+json",%s},"layers":[%s]}' \
        "$image" "$image" "$config_blob" "$oci_layers" >"$tmp"
    oci_manifests+=${oci_manifests:+,}"{\"mediaType\":\"$image.manifest.v1+json\",$(oci_blob "$dir" "$tmp"),\"annotations\":{\"org.opencontainers.image.ref.name\":\"$tag\"}}"
    printf '{"schemaVersion":2,"manifests":[%s]}' "$oci_manifests" >"$dir/index.json"
}
