#!/usr/bin/env bash
# Shows the job: three hosts whose network drops all multicast, and a multicast chat between them over weft.
# Needs root; takes about 15 seconds, never more than 30; leaves nothing behind. Exit code 1 when a line is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly GROUP=239.1.2.3 PORT=1234
readonly LIMIT=26 # seconds from the first namespace to the verdict

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' off=$'\e[0m'; else bold='' dim='' red='' green='' off=''; fi
title() { printf '\n%s%s%s\n' "$bold" "$*" "$off"; }
say() { printf '  %s\n' "$*"; }
cmd() { printf '  %s%-3s#%s %s\n' "$dim" "$1" "$off" "${*:2}"; }
good() { printf '  %sok%s   %s\n' "$green" "$off" "$*"; }
bad() { printf '  %sFAIL%s %s\n' "$red" "$off" "$*"; failures=$((failures + 1)); }
die() {
  printf '\n%sdemo failed:%s %s\n' "$red" "$off" "$1" >&2
  for log in "$dir"/*.err; do
    [ -s "$log" ] && { echo "--- the end of $(basename "$log" .err):"; tail -5 "$log"; } >&2
  done
  exit 1
}

# --- what is needed -------------------------------------------------------------------------------------------------

dir=$(mktemp -d)
pids=() # of all processes started here
ups=()  # of the daemons
prefix=
failures=0

# Kills only what was started here, and what runs inside the namespaces made here.
cleanup() {
  trap '' INT TERM HUP
  exec 3>&- 4>&- 5>&- 2>/dev/null || true
  local ns p
  for p in "${pids[@]}"; do kill -TERM "$p" 2>/dev/null || true; done
  if [ -n "$prefix" ]; then
    for ns in cloud h1 h2 h3; do
      p=$(ip netns pids "$prefix-$ns" 2>/dev/null || true)
      # shellcheck disable=SC2086 # one word per process
      [ -z "$p" ] || kill -KILL $p 2>/dev/null || true
      ip netns del "$prefix-$ns" 2>/dev/null || true
      rm -rf "/etc/netns/$prefix-$ns"
    done
  fi
  for p in "${pids[@]}"; do kill -KILL "$p" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

[ "$(uname -s)" = Linux ] || die "network namespaces are a thing of Linux"
[ "$(id -u)" = 0 ] || die "network namespaces need root: sudo make demo"
.ci/deps demo || die "a package is missing, see above"
weft=${WEFT_BIN:-}
if [ -z "$weft" ]; then
  command -v "${GO:-go}" >/dev/null || die "building needs Go (https://go.dev/dl), 1.26 or later"
  printf 'building weft... '
  make -s build >"$dir/build.err" 2>&1 || { echo; die "weft does not build"; }
  echo "bin/weft"
  weft=$PWD/bin/weft
fi
[ -x "$weft" ] || die "$weft is no program"

# --- hosts ----------------------------------------------------------------------------------------------------------

SECONDS=0
prefix=wd$(od -An -N3 -tx1 /dev/urandom | tr -d ' \n')

# on HOST CMD... runs a command there, with the folders of that host's weft.
on() {
  local host=$1
  shift
  WEFT_RUN_DIR=$dir/$host/run WEFT_STATE_DIR=$dir/$host/state ip netns exec "$prefix-$host" "$@"
}
# start HOST CMD... & is on HOST CMD... in the place of the shell that & makes, so that $! is the command: a program of weft run leaves the
# host's namespace, where cleanup would find it.
start() {
  local host=$1
  shift
  export WEFT_RUN_DIR=$dir/$host/run WEFT_STATE_DIR=$dir/$host/state
  exec ip netns exec "$prefix-$host" "$@"
}
# await WHAT CMD... repeats a command until it succeeds.
await() {
  local what=$1
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$LIMIT" ] || die "$what: not within $LIMIT seconds"
    for up in "${ups[@]}"; do kill -0 "$up" 2>/dev/null || die "$what: weft up ended on its own"; done
    sleep 0.1
  done
}

title "1. Three hosts in a cloud"
ip netns add "$prefix-cloud"
on cloud ip link set lo up
on cloud sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
on cloud nft -f - <<'NFT'
table inet cloud {
  counter dropped { }
  chain prerouting { type filter hook prerouting priority -300; policy accept;
    ip6 daddr ff02::1:ff00:0/104 icmpv6 type nd-neighbor-solicit accept
    ip daddr 224.0.0.0/4 counter name dropped drop
    ip protocol igmp counter name dropped drop
    ip6 daddr ff00::/8 counter name dropped drop
  }
}
NFT
for i in 1 2 3; do
  h=h$i
  mkdir -p "$dir/$h/run" "$dir/$h/state" "/etc/netns/$prefix-$h"
  printf '127.0.0.1 localhost\n10.77.1.2 h1\n10.77.2.2 h2\n10.77.3.2 h3\n' >"/etc/netns/$prefix-$h/hosts"
  ip netns add "$prefix-$h"
  ip -n "$prefix-cloud" link add $h type veth peer name eth0 netns "$prefix-$h"
  ip -n "$prefix-cloud" addr add 10.77.$i.1/24 dev $h
  ip -n "$prefix-cloud" link set $h up
  ip -n "$prefix-$h" link set lo up
  ip -n "$prefix-$h" addr add 10.77.$i.2/24 dev eth0
  ip -n "$prefix-$h" link set eth0 up
  ip -n "$prefix-$h" route add default via 10.77.$i.1
done
say "h1 10.77.1.2   h2 10.77.2.2   h3 10.77.3.2, each behind a router that forwards unicast"
say "and drops 224.0.0.0/4, ff00::/8 and IGMP, as clouds do"

# --- without weft ---------------------------------------------------------------------------------------------------

title "2. A plain multicast datagram, without weft"
cat >"$dir/hear.py" <<'PY'
import socket, struct, sys
group, own = sys.argv[1:]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((group, 5555))
s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + socket.inet_aton(own))
print("ready", flush=True)
s.settimeout(2)
try: print("heard:", s.recv(1500).decode(), flush=True)
except TimeoutError: print("heard nothing", flush=True)
PY
cat >"$dir/say.py" <<'PY'
import socket, sys
group, own, text = sys.argv[1:]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
s.sendto(text.encode(), (group, 5555))
PY
hearers=()
for i in 1 2 3; do
  start h$i python3 "$dir/hear.py" $GROUP 10.77.$i.2 >"$dir/plain$i" 2>"$dir/plain$i.err" &
  hearers+=($!)
  pids+=($!)
done
for i in 1 2 3; do await "a socket on h$i" grep -q ready "$dir/plain$i"; done
on h1 python3 "$dir/say.py" $GROUP 10.77.1.2 "hello from h1"
wait "${hearers[@]}"
for i in 1 2 3; do say "h$i $(tail -1 "$dir/plain$i")"; done
grep -q 'heard: hello' "$dir/plain1" || die "h1 does not hear itself: nothing was sent, so this proves nothing"
for i in 2 3; do
  ! grep -q 'heard: hello' "$dir/plain$i" || die "plain multicast reaches h$i: this network needs no weft"
done
good "sent (h1 heard itself), and dropped on the way: $(on cloud nft list counter inet cloud dropped | grep -o 'packets [0-9]*')"

# --- with weft ------------------------------------------------------------------------------------------------------

title "3. weft up, on each host"
cmd h1 "weft up"
start h1 "$weft" up --name h1 >"$dir/token" 2>"$dir/h1.err" </dev/null &
pids+=($!)
ups+=($!)
await "the token of h1" grep -q '^weft1' "$dir/token"
token=$(grep -m1 '^weft1' "$dir/token")
say "$token"
(umask 077 && printf '%s\n' "$token" >"$dir/token-file")
for h in h2 h3; do
  cmd $h "weft up h1 --token ${token:0:12}..."
  start $h "$weft" up h1 --token-file "$dir/token-file" --name $h >"$dir/$h.out" 2>"$dir/$h.err" </dev/null &
  pids+=($!)
  ups+=($!)
done
alive() { [ "$(on "$1" "$weft" hosts --json | grep -o '"state": *"alive"' | wc -l)" -ge 3 ]; }
for h in h1 h2 h3; do await "$h seeing three hosts" alive $h; done
good "each host sees three, $SECONDS s after the first namespace was made"

title "4. A chat by multicast, one program per host"
names=(mal jayne kaylee)
for i in 1 2 3; do
  name=${names[i - 1]}
  cmd h$i "weft run --name $name -- weft chat $GROUP:$PORT"
  mkfifo "$dir/in$i"
  # Opened for both, so that the chat's input stays open between lines.
  eval "exec $((i + 2))<>\"\$dir/in$i\""
  start h$i "$weft" run --name "$name" -- "$weft" chat $GROUP:$PORT "$name" <"$dir/in$i" >"$dir/chat$i" 2>"$dir/$name.err" &
  pids+=($!)
done
members() { [ "$(on "$1" "$weft" groups --json | grep -o '"attachment"' | wc -l)" -ge 3 ]; }
for h in h1 h2 h3; do await "$h knowing the three members of $GROUP" members $h; done

lines=("Well, here I am." "I'll be in my bunk." "Shiny!")
for i in 1 2 3; do printf '%s\n' "${lines[i - 1]}" >&$((i + 2)); done
has() { grep -qF "$1" "$2"; }
until has "${lines[1]}" "$dir/chat1" && has "${lines[2]}" "$dir/chat1" &&
  has "${lines[0]}" "$dir/chat2" && has "${lines[2]}" "$dir/chat2" &&
  has "${lines[0]}" "$dir/chat3" && has "${lines[1]}" "$dir/chat3"; do
  [ "$SECONDS" -lt "$LIMIT" ] || break
  sleep 0.1
done
for to in 1 2 3; do
  for from in 1 2 3; do
    [ $to != $from ] || continue
    if has "${lines[from - 1]}" "$dir/chat$to"; then
      good "$(printf '%-6s on h%d reads what %-6s on h%d typed: %s' "${names[to - 1]}" $to "${names[from - 1]}" $from "${lines[from - 1]}")"
    else
      bad "${names[to - 1]} on h$to never saw: ${lines[from - 1]}"
    fi
  done
done

title "5. What the hosts know"
cmd h1 "weft status"
on h1 timeout 2 "$weft" status | sed 's/^/      /' || bad "weft status"
cmd h1 "weft groups"
on h1 timeout 2 "$weft" groups | sed 's/^/      /' || bad "weft groups"

[ $failures = 0 ] || die "$failures of the checks above"
title "Done in $SECONDS s. The same on three real machines: see README.md."
