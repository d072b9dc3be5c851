# The words of the smoke tests. On the path are h1, h2, ...: each runs a command on that host, where weft is up.
set -eu
started=""
trap 'for p in $started; do kill "$p" 2>/dev/null || :; done' EXIT

fail() {
	echo "$*" >&2
	exit 1
}

# eventually COMMAND...: it succeeds within 10 s. within SECONDS COMMAND...: the same with another time.
eventually() { within 10 "$@"; }
within() {
	time=$1
	end=$(($(date +%s) + time))
	shift
	until "$@" >/dev/null 2>&1; do
		[ "$(date +%s)" -lt "$end" ] || { "$@" || fail "not within $time s: $*"; return 0; }
		sleep 0.1
	done
}

# up HOST [OPTION...]: weft is started there again, under the host's name, whether or not it reaches others yet.
up() {
	host=$1
	shift
	eventually begun "$host" --name "$host" --log-level warn "$@"
}
begun() {
	code=0
	h=$1
	shift
	"$h" weft up --detach "$@" || code=$?
	[ "$code" = 0 ] || [ "$code" = 3 ]
}

# refused TEXT COMMAND...: it fails, and says why in these words.
refused() {
	text=$1
	shift
	if said=$("$@" 2>&1); then fail "succeeded: $*: $said"; fi
	case $said in *"$text"*) ;; *) fail "$*: $said, want: $text" ;; esac
}

# attached HOST NAME [OPTION...]: a program of that name is attached on a host until it is ended.
attached() {
	host=$1 name=$2
	shift 2
	"$host" weft run --name "$name" "$@" -- sleep 1000 &
	eval "pid_$name=$!"
	started="$started $!"
	eventually inside "$name" ip addr show weft0 up
}

# inside NAME COMMAND...: as that program sees the world.
inside() {
	eval "p=\$pid_$1"
	shift
	nsenter -t "$p" -n -m "$@"
}

# ended NAME: the program ends.
ended() {
	eval "p=\$pid_$1"
	kill "$p"
}

# ip4 NAME: its address. ip6 NAME: the other one.
ip4() { inside "$1" ip -4 -o addr show weft0 | awk '{ sub("/.*", "", $4); print $4 }'; }
ip6() { inside "$1" ip -6 -o addr show weft0 scope global | awk '{ sub("/.*", "", $4); print $4 }'; }

# lookup NAME WHAT: the IPv4 addresses that a program is told of a name, in order, one line.
lookup() { inside "$1" getent ahostsv4 "$2" | awk '{ print $1 }' | sort -u | paste -sd ' ' -; }

# answered NAME WHAT [ADDRESS...]: a program is told just these addresses; none: there is no such name.
answered() {
	who=$1 what=$2
	shift 2
	eventually told "$who" "$what" "$(printf '%s\n' "$@" | sort | paste -sd ' ' -)"
}
told() {
	got=$(lookup "$1" "$2" || :)
	[ "$got" = "$3" ] || { echo "$1 is told of $2: '$got', want '$3'"; return 1; }
}

# value HOST NAME: a variable of that host's: ADDRESS, IMAGE.
value() { "$1" sh -c "echo \$$2"; }

# network HOST NAME: Docker's command makes a weft network of that name there.
network() { "$1" docker network create -d weft --ipam-driver weft --ipam-opt weft.network="$2" "$2" >/dev/null; }

# server HOST NETWORK: where names of that network are answered.
server() { "$1" weft networks --json | tr -d ' \n' | tr '{' '\n' | sed -n "/\"name\":\"$2\"/s/.*\"dns\":\"\([^\"]*\)\".*/\1/p"; }

# container HOST NAME NETWORK: a container that does nothing, in a network.
container() {
	"$1" docker run -d --init=false --name "$2" --network "$3" --dns "$(server "$1" "$3")" --dns-search "$3.weave.local" "$(value "$1" IMAGE)" sleep 100000 >/dev/null
}

# address HOST CONTAINER NETWORK: its IPv4 address.
address() { "$1" docker inspect -f "{{(index .NetworkSettings.Networks \"$3\").IPAddress}}" "$2"; }

# reaches HOST CONTAINER TO: it pings an address or a name.
reaches() { eventually "$1" docker exec "$2" ping -c 1 -W 1 "$3"; }
