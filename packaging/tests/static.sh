#!/usr/bin/env bash
# Runs a static binary where nothing else is but what a runtime of containers gives: random numbers, and the files by which
# names are found. static.sh BINARY. In namespaces of its own, so that nothing of this machine is changed, and no user is asked for.
set -euo pipefail

if [ "${2:-}" != inside ]; then
    exec unshare --map-root-user --mount --net --pid --fork --kill-child "$0" "$1" inside
fi

root="$(mktemp -d)"
mount -t tmpfs tsoracle "$root"
mkdir -p "$root"/{dev,etc,usr/bin,var/lib/tsoracle}
for device in random urandom; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
cp "$1" "$root/usr/bin/tsoracle"
echo "127.0.0.1 localhost by-file" >"$root/etc/hosts"
echo "nameserver 127.0.0.1" >"$root/etc/resolv.conf"
touch "$root/line"
ip link set lo up

tsoracle() { chroot "$root" /usr/bin/tsoracle "$@"; }
check() {
    local what="$1" wanted="$2" got="$3"
    [[ "$got" =~ $wanted ]] || { echo "$what: no: $got" >&2; exit 1; }
    echo "ok: $what"
}

if readelf --program-headers "$1" | grep -q INTERP; then
    echo "$1 needs a dynamic linker" >&2
    exit 1
fi
# Answers every question for a name with 127.0.0.1, and for its IPv6 address with none.
python3 - <<'DNS' &
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
while True:
    query, client = server.recvfrom(512)
    end = query.index(0, 12) + 5
    is_v4 = query[end - 4:end - 2] == b"\0\1"
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4\x7f\0\0\1" if is_v4 else b""
    server.sendto(query[:2] + b"\x81\x80\0\1\0" + bytes([is_v4]) + b"\0\0\0\0" + query[12:end] + answer, client)
DNS
chroot "$root" /usr/bin/tsoracle serve file:/var/lib/tsoracle/state --log warn >"$root/line" &
server=$!
read -r line < <(tail --pid=$server --follow --lines=+1 "$root/line")
check "it serves" "^tsoracle serving on 127.0.0.1:50551 " "$line"
check "a timestamp is given" "^[0-9]+$" "$(tsoracle ts)"
check "it has its status" "leading, epoch 1, .*health SERVING" "$(tsoracle status)"
check "a name is found by /etc/hosts" "^0$" "$(tsoracle seq orders --endpoint by-file:50551)"
check "a name is found by DNS" "^1$" "$(tsoracle seq orders --endpoint node-1.by.dns:50551)"
check "certificates are made" "made " "$(tsoracle cert ca --dir /var/lib/tsoracle/certs)"
kill -TERM $server
wait $server
check "it goes on where it was" "^2$" "$(
    chroot "$root" /usr/bin/tsoracle serve file:/var/lib/tsoracle/state --log warn >"$root/line" &
    read -r line < <(tail --pid=$! --follow --lines=+1 "$root/line")
    tsoracle seq orders
)"
