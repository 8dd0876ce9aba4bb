# Debian packages of the two commands; sourced by bench/demo and tests/run.

packages_build="gcc libc6-dev cmake ninja-build pkg-config libjansson-dev libpcre2-dev libxxhash-dev libutf8proc-dev
    libgrpc-dev libmicrohttpd-dev libssl-dev libzmq3-dev libmsgpack-dev libprotobuf-c-dev protobuf-c-compiler protobuf-compiler libprotobuf-dev libcmocka-dev python3 python3-pip ca-certificates"
packages_tests="g++ python3-venv git prometheus protobuf-compiler-grpc python3-grpcio python3-protobuf python3-zmq python3-msgpack openssl openmpi-bin iproute2 haproxy"
packages_fuzz="clang"

# Installs those of its arguments that are missing. Nothing is asked of the network where all are there.
install_packages()
{
    command -v dpkg-query >/dev/null || { echo "not Debian: these must be there already: $*" >&2; return 0; }
    local package missing=()
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "installing ${missing[*]}"
    local as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${missing[@]}" >/dev/null
}
